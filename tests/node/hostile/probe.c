// Asks the kernel for what a container should not get, one line for each, with the errno.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AF_ALG_ 38
#define AF_VSOCK_ 40
#define SESSION_KEYRING (-3)

static void tell(const char *what, long got)
{
	printf("%s: %s\n", what, got < 0 ? strerror(errno) : "granted");
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "keyring")) {
		printf("%ld\n", syscall(SYS_keyctl, 0, SESSION_KEYRING, 0));
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "user")) {
		printf("%d\n", (int)geteuid());
		return 0;
	}
	tell("AF_INET", socket(AF_INET, SOCK_STREAM, 0));
	tell("AF_ALG", socket(AF_ALG_, SOCK_SEQPACKET, 0));
	tell("AF_VSOCK", socket(AF_VSOCK_, SOCK_STREAM, 0));
	tell("io_uring_setup", syscall(SYS_io_uring_setup, 1, NULL));
	tell("userfaultfd", syscall(SYS_userfaultfd, 0));
	tell("keyctl", syscall(SYS_keyctl, 0, SESSION_KEYRING, 1));
	tell("bpf", syscall(SYS_bpf, 0, NULL, 0));
	tell("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
	tell("unshare", unshare(CLONE_NEWUSER));
	tell("unknown", syscall(100000));
	return 0;
}
