//! System calls that are newer than a profile: a few instructions before the library's program answer them with ENOSYS, as
//! a kernel does that has not got them. With the profile's own refusal (as a rule EPERM) a C library would not fall back to the
//! older call. "Newer" is above the highest number that the profile names on that architecture.
//!
//! ```text
//! A = arch; one test per architecture ─> A = nr; nr > last ─> ENOSYS
//! anything else ─────────────────────────────────────────────> the library's program, which loads A anew
//! ```

use libcontainer::oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};
use libseccomp::{ScmpArch, ScmpSyscall};

use super::architecture;
use super::code::{
    ARCH, Instruction, JUMP_ALWAYS, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD, NR,
    RETURN,
};

/// In the number of a call of x32, which the kernel tells as x86-64.
const X32_BIT: u32 = 0x4000_0000;
const X86_64: u32 = 0xc000_003e;
/// `SECCOMP_RET_ERRNO` with ENOSYS.
const UNKNOWN: u32 = 0x0005_0026;

/// The highest numbers that a profile knows of one of the kernel's architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    token: u32,
    last: u32,
    /// Of x32, where the profile has it.
    last_x32: Option<u32>,
}

/// What goes before the program of a profile; empty when its default lets everything pass.
pub(super) fn prologue(profile: &LinuxSeccomp) -> Vec<Instruction> {
    if !refuses(profile) {
        return Vec::new();
    }
    instructions(&known(profile))
}

/// Whether a call that no rule names is refused with something else than ENOSYS.
fn refuses(profile: &LinuxSeccomp) -> bool {
    let enosys = libc::ENOSYS.unsigned_abs();
    match profile.default_action() {
        LinuxSeccompAction::ScmpActErrno => profile.default_errno_ret() != Some(enosys),
        LinuxSeccompAction::ScmpActKill
        | LinuxSeccompAction::ScmpActKillThread
        | LinuxSeccompAction::ScmpActKillProcess
        | LinuxSeccompAction::ScmpActTrap => true,
        LinuxSeccompAction::ScmpActTrace
        | LinuxSeccompAction::ScmpActAllow
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActNotify => false,
    }
}

fn known(profile: &LinuxSeccomp) -> Vec<Known> {
    let listed: Vec<ScmpArch> =
        profile.architectures().iter().flatten().map(|arch| concrete(*arch)).collect();
    let mut archs = vec![ScmpArch::native()];
    archs.extend(listed.iter().filter(|arch| **arch != ScmpArch::native()));
    let one = |arch: ScmpArch| {
        let token = token(arch)?;
        let x32 = token == X86_64 && listed.contains(&ScmpArch::X32);
        Some(Known {
            token,
            last: last(profile, arch)?,
            last_x32: if x32 { last(profile, ScmpArch::X32) } else { None },
        })
    };
    archs.into_iter().filter_map(one).collect()
}

/// The library puts the native architecture into every program.
fn concrete(arch: Arch) -> ScmpArch {
    match architecture(arch) {
        ScmpArch::Native => ScmpArch::native(),
        other => other,
    }
}

/// What the kernel calls an architecture (`AUDIT_ARCH_*`). Those that are not here keep the profile's answer, and so does
/// x32, which is x86-64 to the kernel.
fn token(arch: ScmpArch) -> Option<u32> {
    match arch {
        ScmpArch::X8664 => Some(X86_64),
        ScmpArch::X86 => Some(0x4000_0003),
        ScmpArch::Aarch64 => Some(0xc000_00b7),
        ScmpArch::Arm => Some(0x4000_0028),
        ScmpArch::Riscv64 => Some(0xc000_00f3),
        ScmpArch::Ppc64Le => Some(0xc000_0015),
        ScmpArch::S390X => Some(0x8000_0016),
        ScmpArch::Loongarch64 => Some(0xc000_0102),
        _ => None,
    }
}

/// Names that the library does not know count as newer; numbers below zero are its own, for calls behind `socketcall` and `ipc`.
fn last(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
    let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok());
    numbers.filter_map(|number| u32::try_from(i32::from(number)).ok()).max()
}

/// From the last block to the first, so that the way to the end is the length of what is there already.
fn instructions(known: &[Known]) -> Vec<Instruction> {
    let mut code = Vec::new();
    for known in known.iter().rev() {
        let mut block = judge(known);
        block.push(Instruction::new(JUMP_ALWAYS, length(&code)));
        let beyond = u8::try_from(block.len()).unwrap_or(0);
        block.insert(0, Instruction::test(JUMP_EQUAL, known.token, (0, beyond)));
        block.append(&mut code);
        code = block;
    }
    if !code.is_empty() {
        code.insert(0, Instruction::new(LOAD, ARCH));
    }
    code
}

/// Of one architecture: returns ENOSYS or goes on behind itself.
fn judge(known: &Known) -> Vec<Instruction> {
    let number = Instruction::new(LOAD, NR);
    let refuse = Instruction::new(RETURN, UNKNOWN);
    let newer = |last, to| Instruction::test(JUMP_GREATER, last, to);
    let is_x32 = |to| Instruction::test(JUMP_GREATER_OR_EQUAL, X32_BIT, to);
    match known.last_x32 {
        Some(x32) => {
            vec![number, is_x32((0, 1)), newer(x32, (1, 2)), newer(known.last, (0, 1)), refuse]
        }
        None if known.token == X86_64 => {
            vec![number, is_x32((2, 0)), newer(known.last, (0, 1)), refuse]
        }
        None => vec![number, newer(known.last, (0, 1)), refuse],
    }
}

fn length(code: &[Instruction]) -> u32 {
    u32::try_from(code.len()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use libcontainer::oci_spec::runtime::{LinuxSeccompBuilder, LinuxSyscall, LinuxSyscallBuilder};

    use super::*;

    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;

    /// What a program answers to a call: the part of the kernel's interpreter that the library's programs need.
    fn run(program: &[u8], arch: u32, nr: u32) -> u32 {
        let all: Vec<_> = program.chunks_exact(8).collect();
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let i = all[at];
            let (code, k) =
                (u16::from_ne_bytes([i[0], i[1]]), u32::from_ne_bytes([i[4], i[5], i[6], i[7]]));
            let to = |yes: bool| usize::from(if yes { i[2] } else { i[3] });
            at += 1;
            match code {
                LOAD if k == NR => a = nr,
                LOAD if k == ARCH => a = arch,
                LOAD => a = 0,
                JUMP_EQUAL => at += to(a == k),
                JUMP_GREATER => at += to(a > k),
                JUMP_GREATER_OR_EQUAL => at += to(a >= k),
                JUMP_ALWAYS => at += k as usize,
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn rule(names: &[&str]) -> LinuxSyscall {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let action = LinuxSeccompAction::ScmpActAllow;
        LinuxSyscallBuilder::default().names(names).action(action).build().unwrap()
    }

    fn profile(action: LinuxSeccompAction, archs: &[Arch]) -> LinuxSeccomp {
        let mut profile = LinuxSeccompBuilder::default()
            .default_action(action)
            .syscalls(vec![rule(&["read", "socket", "statx", "a_call_of_tomorrow"])])
            .build()
            .unwrap();
        profile.set_architectures(Some(archs.to_vec()));
        profile
    }

    fn whole(profile: &LinuxSeccomp) -> Vec<u8> {
        super::super::compile(profile).unwrap()
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_call_above_the_last_known_one_is_unknown_and_others_go_by_the_profile() {
        let archs = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
        let program = whole(&profile(LinuxSeccompAction::ScmpActErrno, &archs));
        // statx is 332, on i386 383; 166 is umount2, on i386 vm86.
        for (arch, nr, answer) in [
            (X86_64, 0, ALLOW),
            (X86_64, 332, ALLOW),
            (X86_64, 166, EPERM),
            (X86_64, 333, UNKNOWN),
            (X86_64, 9999, UNKNOWN),
            (X86_64, u32::MAX, UNKNOWN),
            (X86_64, X32_BIT, ALLOW),
            (X86_64, X32_BIT + 166, EPERM),
            (X86_64, X32_BIT + 9999, UNKNOWN),
            (I386, 3, ALLOW),
            (I386, 383, ALLOW),
            (I386, 166, EPERM),
            (I386, 384, UNKNOWN),
        ] {
            assert_eq!(run(&program, arch, nr), answer, "{arch:#x} {nr:#x}");
        }
        // An architecture that is in no profile ends the process, as before.
        assert_eq!(run(&program, 0xc000_00b7, 9999), 0);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn x32_is_not_answered_for_a_profile_that_has_none() {
        let program = whole(&profile(LinuxSeccompAction::ScmpActErrno, &[]));
        assert_eq!(run(&program, X86_64, 9999), UNKNOWN);
        assert_eq!(run(&program, X86_64, X32_BIT + 9999), 0);
    }

    #[test]
    fn only_what_a_profile_refuses_becomes_unknown() {
        use LinuxSeccompAction as Action;
        let has = |action| !prologue(&profile(action, &[])).is_empty();
        assert!(has(Action::ScmpActErrno) && has(Action::ScmpActKillProcess));
        assert!(!has(Action::ScmpActAllow) && !has(Action::ScmpActLog));
        let mut enosys = profile(Action::ScmpActErrno, &[]);
        enosys.set_default_errno_ret(Some(libc::ENOSYS.unsigned_abs()));
        assert!(prologue(&enosys).is_empty());
    }
}
