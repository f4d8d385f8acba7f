use std::collections::BTreeSet;

use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use libseccomp::{ScmpArch, ScmpSyscall};

use super::super::by_the_library;
use super::super::code::JUMP_GREATER_OR_EQUAL;
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;

/// What the kernel does with a program; and how many instructions it takes.
fn run(code: &[Instruction], arch: u32, nr: u32, args: [u32; 12]) -> (u32, usize) {
    let mut data = vec![nr, arch, 7, 7];
    data.extend(args);
    let (mut at, mut a) = (0, 0);
    for steps in 1..=code.len() {
        let i = code[at];
        at += 1;
        match i.code {
            LOAD => a = data[i.k as usize / 4],
            AND => a &= i.k,
            JUMP_ALWAYS => at += i.k as usize,
            RETURN => return (i.k, steps),
            _ if i.holds(a).unwrap() => at += usize::from(i.jump_true),
            _ => at += usize::from(i.jump_false),
        }
    }
    panic!("no answer for {arch:#x} {nr:#x}")
}

/// Every number near one that is compared with, every such value as argument, as the low half and as both.
fn same(a: &[Instruction], b: &[Instruction]) -> usize {
    let near = |k: u32| [k.wrapping_sub(1), k, k.wrapping_add(1)];
    let values: BTreeSet<u32> = a.iter().flat_map(|i| near(i.k)).chain([0, u32::MAX]).collect();
    let numbers: BTreeSet<u32> = values.iter().copied().chain(0..600).collect();
    let looks = |nr, arch| matches!(outcome(a, arch, nr), Some(Outcome::Tests(_)));
    let mut asked = 0;
    for arch in [X86_64, I386, AARCH64, 0, 1, u32::MAX, X86_64 - 1, X86_64 + 1] {
        for nr in &numbers {
            let few: BTreeSet<u32> = [0, u32::MAX].into();
            for value in if looks(*nr, arch) { &values } else { &few } {
                let half: [u32; 12] = std::array::from_fn(|i| if i % 2 == 0 { *value } else { 0 });
                for args in [[*value; 12], half] {
                    let want = run(a, arch, *nr, args).0;
                    assert_eq!(run(b, arch, *nr, args).0, want, "{arch:#x} {nr:#x} {value:#x}");
                    asked += 1;
                }
            }
        }
    }
    asked
}

fn rule(action: LinuxSeccompAction, names: &[&str]) -> LinuxSyscallBuilder {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    LinuxSyscallBuilder::default().names(names).action(action)
}

fn profile(default: LinuxSeccompAction, archs: &[Arch], rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let profile = LinuxSeccompBuilder::default().default_action(default).syscalls(rules);
    let mut profile = profile.build().unwrap();
    profile.set_architectures(Some(archs.to_vec()));
    profile
}

fn all_archs() -> [Arch; 3] {
    [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
}

/// Like what a pod gets without a profile of its own: all calls that the library knows but every ninth, one by its arguments.
fn usual() -> LinuxSeccomp {
    let called = |nr: i32| ScmpSyscall::from(nr).get_name_by_arch(ScmpArch::X8664).ok();
    let known = (0..460).filter(|nr| nr % 9 != 0).filter_map(called);
    let allowed: Vec<String> = known.filter(|name| name != "clone").collect();
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    let allow = LinuxSeccompAction::ScmpActAllow;
    let flags = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .value(0x7e02_0000_u64)
        .value_two(0_u64);
    let clone = rule(allow, &["clone"]).args(vec![flags.build().unwrap()]);
    let rules = vec![rule(allow, &allowed).build().unwrap(), clone.build().unwrap()];
    profile(LinuxSeccompAction::ScmpActErrno, &all_archs(), rules)
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_usual_profile_has_the_same_answers_in_a_third_of_the_instructions() {
    let library = by_the_library(&usual()).unwrap();
    let short = shorter(&library).unwrap();
    assert!(short.len() * 3 < library.len(), "{} of {}", short.len(), library.len());
    assert!(same(&library, &short) > 10_000);
    let steps = |code: &[Instruction]| -> usize {
        (0..450).map(|nr| run(code, X86_64, nr, [0; 12]).1).sum()
    };
    assert!(steps(&short) < steps(&library), "{} {}", steps(&short), steps(&library));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn arguments_are_asked_for_as_before() {
    use LinuxSeccompAction as Action;
    use LinuxSeccompOperator as Operator;
    let arg = |index, op, value, two: Option<u64>| {
        let arg = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
        match two {
            Some(two) => arg.value_two(two).build().unwrap(),
            None => arg.build().unwrap(),
        }
    };
    let operators = [
        ("personality", arg(0_usize, Operator::ScmpCmpEq, 0xffff_ffff_u64, None)),
        ("socket", arg(0, Operator::ScmpCmpNe, 40, None)),
        ("clone", arg(0, Operator::ScmpCmpMaskedEq, 0x7e02_0000, Some(0))),
        ("prctl", arg(0, Operator::ScmpCmpLt, 9, None)),
        ("fcntl", arg(1, Operator::ScmpCmpGe, 1 << 33, None)),
        ("ioctl", arg(1, Operator::ScmpCmpGt, 0x5412, None)),
        ("kcmp", arg(4, Operator::ScmpCmpLe, (1 << 40) + 5, None)),
    ];
    for default in [Action::ScmpActErrno, Action::ScmpActAllow, Action::ScmpActKillProcess] {
        let other = if default == Action::ScmpActAllow {
            Action::ScmpActErrno
        } else {
            Action::ScmpActAllow
        };
        let mut rules: Vec<_> = operators
            .iter()
            .map(|(name, arg)| rule(other, &[name]).args(vec![*arg]).build().unwrap())
            .collect();
        let both = vec![operators[0].1, arg(2, Operator::ScmpCmpEq, 3, None)];
        rules.push(rule(other, &["mmap"]).args(both).build().unwrap());
        rules.push(rule(other, &["read", "write", "openat", "statx", "getpid"]).build().unwrap());
        rules.push(rule(Action::ScmpActLog, &["close"]).build().unwrap());
        for archs in [&all_archs()[..], &[]] {
            let library = by_the_library(&profile(default, archs, rules.clone())).unwrap();
            // Whether or not that is shorter.
            let padded = [&library[..], &vec![Instruction::new(RETURN, 0); 1000]].concat();
            assert!(same(&library, &shorter(&padded).unwrap()) > 10_000);
        }
    }
}

#[test]
fn what_is_far_is_reached() {
    let mut code = vec![Instruction::new(LOAD, NR)];
    // A thousand answers, each its own.
    for nr in 0..1000 {
        code.push(Instruction::test(JUMP_EQUAL, nr, (0, 1)));
        code.push(Instruction::new(RETURN, 0x10_0000 + nr));
    }
    code.push(Instruction::new(RETURN, 1));
    let padded = [&code[..], &vec![Instruction::new(RETURN, 0); 3000]].concat();
    let short = shorter(&padded).unwrap();
    for nr in 0..1010 {
        assert_eq!(run(&short, 1, nr, [0; 12]).0, run(&code, 1, nr, [0; 12]).0);
    }
}

#[test]
fn what_is_not_understood_stays() {
    let ret = Instruction::new(RETURN, 1);
    let long = vec![ret; 50];
    let with = |begin: &[Instruction]| shorter(&[begin, &long].concat());
    let number = Instruction::new(LOAD, NR);
    assert!(with(&[number, Instruction::test(JUMP_GREATER_OR_EQUAL, 5, (0, 1))]).is_some());
    // Bits of the number, its sum with something, an instruction past the end, the number once more among arguments.
    assert!(with(&[number, Instruction::test(JUMP_IF_ANY_BIT, 5, (0, 1))]).is_none());
    assert!(with(&[number, Instruction::new(AND, 5)]).is_none());
    assert!(with(&[number, Instruction::new(0x04, 5)]).is_none());
    assert!(with(&[Instruction::new(JUMP_ALWAYS, 50)]).is_none());
    assert!(with(&[Instruction::new(LOAD, 16), number]).is_none());
    assert!(shorter(&[number, ret]).is_none_or(|short| short.len() < 2));
}
