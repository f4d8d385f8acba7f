//! A profile becomes a program once per node: compiled programs are kept in a directory, named by the digest of their
//! profile (357 rules: 2.8 ms to build, with x86 and x32 14 ms). Each process loads one: of the library, as a binary
//! tree of 1,278 instructions, in 0.27 ms, and made [`shorter`], with 374, in 0.10.
//!
//! * `newer`: what goes before the library's program, so that a call newer than the profile is unknown and not refused;
//! * `shorter`: both as one program with a third of the instructions; `code`: what programs are made of.

use std::fs;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, Spec,
};
use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use sha2::{Digest, Sha256};
use wire::v1::Filter;

use code::Instruction;
use process::failure::{At, Failure, Kind};

mod code;
mod newer;
mod shorter;

const STAGE: &str = "seccomp";
/// Changes with the way programs are made, so that an older launch's programs are not used.
const MAKE: &str = "3";
const TREE_SORTED: u32 = 2;

/// The filter of a specification's profile, from the cache or made now.
pub(crate) fn filter_of(spec: &Spec, cache: &str) -> Result<Option<Filter>, Failure> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    profile.map(|profile| filter_for(profile, cache)).transpose()
}

fn filter_for(profile: &LinuxSeccomp, cache: &str) -> Result<Filter, Failure> {
    let flags = load_flags(profile.flags().as_ref());
    let kept = place(profile, cache)?;
    if let Some(code) = kept.as_ref().and_then(|path| read(path)) {
        return Ok(Filter { code, flags });
    }
    let code = compile(profile)?;
    if let Some(path) = kept {
        // The cache only saves time: a full disk must not keep a container from starting.
        let _not_kept = keep(&path, &code);
    }
    Ok(Filter { code, flags })
}

fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok().filter(|code| is_whole(code))
}

fn is_whole(code: &[u8]) -> bool {
    !code.is_empty() && code.len().is_multiple_of(8)
}

fn place(profile: &LinuxSeccomp, cache: &str) -> Result<Option<PathBuf>, Failure> {
    if cache.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_vec(profile).at(STAGE, || "reading the profile".into())?;
    let mut digest = Sha256::new();
    digest.update(MAKE);
    if let Ok(version) = libseccomp::ScmpVersion::current() {
        digest.update(version.to_string());
    }
    digest.update(&text);
    let name = digest.finalize().iter().fold(String::new(), |name, b| name + &format!("{b:02x}"));
    Ok(Some(Path::new(cache).join(name)))
}

fn keep(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(std::process::id().to_string());
    let mut file = fs::File::create_new(&temporary)?;
    let written = file.write_all(code).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _left = fs::remove_file(&temporary);
    }
    written
}

fn load_flags(flags: Option<&Vec<LinuxSeccompFilterFlag>>) -> u64 {
    let flag = |f: &LinuxSeccompFilterFlag| match f {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
        // Only together with a notifier, which has no field here.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    flags.into_iter().flatten().map(flag).fold(0, |all, f| all | f)
}

fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>, Failure> {
    let code = by_the_library(profile)?;
    Ok(code::bytes(&shorter::shorter(&code).unwrap_or(code)))
}

/// Its program, behind what answers calls that are newer than the profile.
fn by_the_library(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, Failure> {
    refuse_notify(profile)?;
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let filter = filter(profile, default)
        .at(STAGE, || "compiling the profile".into())
        .map_err(|failure| Failure { kind: Kind::Invalid, ..failure })?;
    // The library before 2.6 writes programs to files only.
    let doing = || "exporting the filter".to_owned();
    let memory = memfd_create(c"filter", MemFdCreateFlag::MFD_CLOEXEC).at(STAGE, doing)?;
    filter.export_bpf(&memory).at(STAGE, doing)?;
    let (mut file, mut librarys) = (fs::File::from(memory), Vec::new());
    file.rewind().and_then(|()| file.read_to_end(&mut librarys)).at(STAGE, doing)?;
    let mut code = newer::prologue(profile);
    code.append(&mut code::parse(&librarys));
    Ok(code)
}

fn filter(profile: &LinuxSeccomp, default: ScmpAction) -> Result<ScmpFilterContext, SeccompError> {
    let mut filter = ScmpFilterContext::new(default)?;
    filter.set_ctl_nnp(false)?;
    // Older libraries have no such attribute; their programs are only slower.
    let _linear = filter.set_ctl_optimize(TREE_SORTED).map(drop);
    for arch in profile.architectures().iter().flatten() {
        filter.add_arch(architecture(*arch))?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let Ok(action) = action(rule.action(), rule.errno_ret()) else { continue };
        if action == default {
            continue;
        }
        for name in rule.names() {
            add(&mut filter, action, name, rule.args().as_deref().unwrap_or_default())?;
        }
    }
    Ok(filter)
}

fn refuse_notify(profile: &LinuxSeccomp) -> Result<(), Failure> {
    let rules = profile.syscalls().iter().flatten().map(|s| (s.action(), s.errno_ret()));
    for (kind, errno) in rules {
        action(kind, errno)?;
    }
    Ok(())
}

/// A name that the library does not know gets the default action, as every runtime does.
fn add(
    filter: &mut ScmpFilterContext,
    action: ScmpAction,
    name: &str,
    args: &[LinuxSeccompArg],
) -> Result<(), SeccompError> {
    let Ok(syscall) = ScmpSyscall::from_name(name) else { return Ok(()) };
    let compare = |arg: &LinuxSeccompArg| {
        let index = u32::try_from(arg.index()).unwrap_or(u32::MAX);
        ScmpArgCompare::new(index, operator(arg), datum(arg))
    };
    let all: Vec<_> = args.iter().map(compare).collect();
    let twice = |i: usize| {
        args.iter().filter(|a| args.get(i).is_some_and(|b| a.index() == b.index())).count() > 1
    };
    if (0..args.len()).any(twice) {
        // The library compares an argument once per rule; the specification means "any of them".
        for one in &all {
            filter.add_rule_conditional(action, syscall, std::slice::from_ref(one))?;
        }
    } else if all.is_empty() {
        filter.add_rule(action, syscall)?;
    } else {
        filter.add_rule_conditional(action, syscall, &all)?;
    }
    Ok(())
}

fn operator(arg: &LinuxSeccompArg) -> ScmpCompareOp {
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(arg.value()),
    }
}

/// A masked comparison has its mask in `value` and the datum in `valueTwo`.
fn datum(arg: &LinuxSeccompArg) -> u64 {
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => arg.value_two().unwrap_or(0),
        LinuxSeccompOperator::ScmpCmpNe
        | LinuxSeccompOperator::ScmpCmpLt
        | LinuxSeccompOperator::ScmpCmpLe
        | LinuxSeccompOperator::ScmpCmpEq
        | LinuxSeccompOperator::ScmpCmpGe
        | LinuxSeccompOperator::ScmpCmpGt => arg.value(),
    }
}

fn action(kind: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Failure> {
    let errno = errno.and_then(|e| i32::try_from(e).ok()).unwrap_or(libc::EPERM);
    Ok(match kind {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(u16::try_from(errno).unwrap_or(0)),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Failure::invalid(
                STAGE,
                "the profile asks for a notifier, which is not supported",
            ));
        }
    })
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}
