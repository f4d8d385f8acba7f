//! What a session carries, beside socat: the same bytes from the same file over the same pipes and sockets, with one socat where the
//! daemon is and one where crictl is. In turn, and medians are compared.
//!
//! The check is against socat as it comes, which takes 8 KiB at once. socat with blocks of 256 KiB, and what crictl and the daemon burn,
//! stand beside it: over SPDY crictl alone needs about a second of CPU for a GiB, which is longer than such a socat needs for all.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use sha2::{Digest, Sha256};

use super::Check;
use super::crictl::{Crictl, Running, connect, program};
use super::scene::{HASHES, HEARS, Input, NOISE, SAYS, Scene, TAKES, hex, says};
use times::Times;

mod times;

const ROUNDS: usize = 5;
/// On loopback.
const BY_CRICTL: u16 = 19_000;
const PIECE: usize = 256 << 10;
/// Of the pipes between this program and its children, for crictl and socat alike.
const PIPE: i32 = 1 << 20;
/// As it comes, and as fast as it can.
const SOCATS: [Socat; 2] = [
    Socat { program: "socat", port: 19_001, between: 19_002 },
    Socat { program: "socat -b 262144", port: 19_003, between: 19_004 },
];

/// How socat is called, the port that it forwards, and that between the two.
struct Socat {
    program: &'static str,
    port: u16,
    between: u16,
}

/// Whoever takes what is said.
enum Hearer {
    Counts(usize),
    Hashes(Sha256),
}

/// What is asked of one way of carrying.
struct Asked {
    daemon: u32,
    size: usize,
    hash: String,
    file: PathBuf,
}

pub(super) async fn measure(
    scene: &Scene,
    crictl: &Crictl,
    (transport, daemon): (&str, u32),
    mebibytes: usize,
) -> Result<Vec<Check>> {
    let (hash, file) = (scene.make_noise(mebibytes)?, scene.file());
    let asked = Asked { daemon, size: mebibytes << 20, hash, file };
    Ok(vec![
        exec_out(scene, crictl, transport, &asked)?,
        exec_in(scene, crictl, transport, &asked)?,
        attach_out(scene, crictl, transport, &asked).await?,
        attach_in(scene, crictl, transport, &asked).await?,
        forward_out(scene, crictl, transport, &asked)?,
        forward_in(scene, crictl, transport, &asked)?,
    ])
}

// === the six ways ===

fn exec_out(scene: &Scene, crictl: &Crictl, transport: &str, asked: &Asked) -> Result<Check> {
    let command =
        || crictl.command("exec", transport, &[&scene.container, "sh", "-c", &says(NOISE)]);
    asked.check_hash(&said(command(), b"", Hearer::Hashes(Sha256::new()))?.1)?;
    let mut times = asked.times(None);
    for _ in 0..ROUNDS {
        times.ours(|| asked.counted(command(), b""))?;
        times.socats(|socat| asked.counted(socat.says(asked), b""))?;
    }
    Ok(times.check("exec, output"))
}

fn exec_in(scene: &Scene, crictl: &Crictl, transport: &str, asked: &Asked) -> Result<Check> {
    let command =
        |script| crictl.command("exec", transport, &["-i", &scene.container, "sh", "-c", script]);
    asked.check_hash(&heard(command("sha256sum"), &asked.file)?.1)?;
    let mut times = asked.times(None);
    for _ in 0..ROUNDS {
        times.ours(|| Ok(heard(command(TAKES), &asked.file)?.0))?;
        times.socats(|socat| Ok(heard(socat.hears(), &asked.file)?.0))?;
    }
    Ok(times.check("exec, input"))
}

async fn attach_out(
    scene: &Scene,
    crictl: &Crictl,
    transport: &str,
    asked: &Asked,
) -> Result<Check> {
    let mut times = asked.times(None);
    for round in 0..=ROUNDS {
        let script = format!("read -r _; exec {}", says(NOISE));
        let id = scene.start(&format!("says-{round}"), &script, Input::Open).await?;
        let command = crictl.command("attach", transport, &["-i", &id]);
        if round == 0 {
            asked.check_hash(&said(command, b"go\n", Hearer::Hashes(Sha256::new()))?.1)?;
        } else {
            times.ours(|| asked.counted(command, b"go\n"))?;
            times.socats(|socat| asked.counted(socat.says(asked), b""))?;
        }
        scene.remove(&id).await?;
    }
    Ok(times.check("attach, output"))
}

async fn attach_in(
    scene: &Scene,
    crictl: &Crictl,
    transport: &str,
    asked: &Asked,
) -> Result<Check> {
    let mut times = asked.times(None);
    for round in 0..=ROUNDS {
        let script = if round == 0 { "sha256sum" } else { TAKES };
        let id = scene.start(&format!("hears-{round}"), script, Input::Once).await?;
        let command = crictl.command("attach", transport, &["-i", &id]);
        if round == 0 {
            asked.check_hash(&heard(command, &asked.file)?.1)?;
        } else {
            times.ours(|| Ok(heard(command, &asked.file)?.0))?;
            times.socats(|socat| Ok(heard(socat.hears(), &asked.file)?.0))?;
        }
        scene.remove(&id).await?;
    }
    Ok(times.check("attach, input"))
}

fn forward_out(scene: &Scene, crictl: &Crictl, transport: &str, asked: &Asked) -> Result<Check> {
    let relays = Relays::start(scene, crictl, transport, SAYS)?;
    let out = |port, mut hearer: Hearer| {
        let begun = Instant::now();
        hearer.all_of(connect(port)?)?;
        Ok::<_, anyhow::Error>((begun.elapsed(), hearer.told()))
    };
    asked.check_hash(&out(BY_CRICTL, Hearer::Hashes(Sha256::new()))?.1)?;
    let mut times = asked.times(Some(relays.crictl.0.id()));
    for _ in 0..ROUNDS {
        times.ours(|| asked.whole(out(BY_CRICTL, Hearer::Counts(0))?))?;
        times.socats(|socat| asked.whole(out(socat.port, Hearer::Counts(0))?))?;
    }
    Ok(times.check("port-forward, output"))
}

fn forward_in(scene: &Scene, crictl: &Crictl, transport: &str, asked: &Asked) -> Result<Check> {
    {
        let _hashing = Relays::start(scene, crictl, transport, HASHES)?;
        asked.check_hash(&sent(connect(BY_CRICTL)?, &asked.file)?.1)?;
    }
    let relays = Relays::start(scene, crictl, transport, HEARS)?;
    let heard = |port| {
        let (took, told) = sent(connect(port)?, &asked.file)?;
        ensure!(told.trim() == "heard", "the pod said {told:?}");
        Ok(took)
    };
    let mut times = asked.times(Some(relays.crictl.0.id()));
    for _ in 0..ROUNDS {
        times.ours(|| heard(BY_CRICTL))?;
        times.socats(|socat| heard(socat.port))?;
    }
    Ok(times.check("port-forward, input"))
}

// === how it is carried ===

/// What a program says after it was told to begin.
fn said(mut command: Command, word: &[u8], mut hearer: Hearer) -> Result<(Duration, String)> {
    let begun = Instant::now();
    let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    widen(&running.0);
    // The input stays open: its end is no order to end.
    running.0.stdin.as_mut().context("its input")?.write_all(word)?;
    hearer.all_of(running.0.stdout.take().context("its output")?)?;
    Ok((begun.elapsed(), hearer.told()))
}

/// Else what is measured is how often two processes wake each other over 64 KiB.
fn widen(child: &Child) {
    let stdin = child.stdin.iter().map(AsRawFd::as_raw_fd);
    for pipe in stdin.chain(child.stdout.iter().map(AsRawFd::as_raw_fd)) {
        // The kernel may refuse it: then both are slower.
        fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE)).ok();
    }
}

/// Gives a program the file; what it says at its end.
fn heard(mut command: Command, file: &Path) -> Result<(Duration, String)> {
    let begun = Instant::now();
    let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    widen(&running.0);
    let mut stdin = running.0.stdin.take().context("its input")?;
    pour(file, &mut stdin)?;
    drop(stdin);
    let mut told = String::new();
    running.0.stdout.take().context("its output")?.read_to_string(&mut told)?;
    let status = running.0.wait()?;
    ensure!(status.success(), "{}: {status}", command.get_program().display());
    Ok((begun.elapsed(), told))
}

/// Sends the file; what comes back after its end.
fn sent(mut stream: TcpStream, file: &Path) -> Result<(Duration, String)> {
    let begun = Instant::now();
    pour(file, &mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    Ok((begun.elapsed(), told))
}

/// By hand: the kernel's own ways of copying would be socat's disadvantage or advantage by the kind of descriptor.
fn pour(file: &Path, to: &mut impl Write) -> Result<()> {
    let mut file = File::open(file).with_context(|| file.display().to_string())?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            n => to.write_all(piece.get(..n).unwrap_or_default())?,
        }
    }
}

/// One socat beside the program, one beside the client, and a connection between them.
impl Socat {
    fn says(&self, asked: &Asked) -> Command {
        let (program, says) = (self.program, says(asked.file.display()));
        let beside = format!("{program} -u SYSTEM:'{says}',pipes {}", listen(self.between));
        shell(&format!("{beside} & exec {program} -u {} STDOUT", reach(self.between)))
    }

    fn hears(&self) -> Command {
        let program = self.program;
        let beside = format!("{program} -u {} SYSTEM:'{TAKES}',pipes", listen(self.between));
        let client = format!("{program} -u STDIN {}", reach(self.between));
        shell(&format!("exec 3<&0; {beside} </dev/null & {client} <&3; wait"))
    }

    /// Two that forward a port of loopback to the same of the pod.
    fn forward(&self, scene: &Scene, port: u16) -> Result<[Running; 2]> {
        let program = self.program;
        let beside = format!("{program} {},fork TCP:{}:{port}", listen(self.between), scene.ip);
        let client = format!("{program} {},fork {}", listen(self.port), reach(self.between));
        let both = [
            Running::start(&mut shell(&format!("exec {beside}")))?,
            Running::start(&mut shell(&format!("exec {client}")))?,
        ];
        for _ in 0..500 {
            // It is a connection to the pod too, and ends at once.
            if connect(self.port).is_ok() {
                return Ok(both);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("socat does not listen")
    }
}

fn shell(script: &str) -> Command {
    let mut command = program("sh");
    command.args(["-c", script]);
    command
}

fn listen(port: u16) -> String {
    format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr")
}

fn reach(port: u16) -> String {
    format!("TCP:127.0.0.1:{port},retry=500,interval=0.01")
}

/// A port of loopback by each, to the same of the pod.
struct Relays {
    crictl: Running,
    _socats: [[Running; 2]; 2],
}

impl Relays {
    fn start(scene: &Scene, crictl: &Crictl, transport: &str, port: u16) -> Result<Self> {
        let ports = format!("{BY_CRICTL}:{port}");
        let crictl = Running::forward(crictl, transport, &scene.pod, &ports)?;
        let [plain, tuned] = &SOCATS;
        Ok(Self { crictl, _socats: [plain.forward(scene, port)?, tuned.forward(scene, port)?] })
    }
}

impl Hearer {
    fn all_of(&mut self, mut from: impl Read) -> Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            let n = from.read(&mut piece)?;
            let piece = piece.get(..n).unwrap_or_default();
            match self {
                Self::Counts(count) => *count += n,
                Self::Hashes(hash) => hash.update(piece),
            }
            if n == 0 {
                return Ok(());
            }
        }
    }

    fn told(self) -> String {
        match self {
            Self::Counts(count) => count.to_string(),
            Self::Hashes(hash) => hex(&hash.finalize()),
        }
    }
}

impl Asked {
    /// `sha256sum` says a name too.
    fn check_hash(&self, told: &str) -> Result<()> {
        let hash = told.split_whitespace().next().unwrap_or_default();
        ensure!(hash == self.hash, "the hash is {hash:?} and not {}", self.hash);
        Ok(())
    }

    fn whole(&self, (took, told): (Duration, String)) -> Result<Duration> {
        ensure!(told == self.size.to_string(), "{told} bytes came and not {}", self.size);
        Ok(took)
    }

    fn counted(&self, command: Command, word: &[u8]) -> Result<Duration> {
        self.whole(said(command, word, Hearer::Counts(0))?)
    }

    fn times(&self, lasting: Option<u32>) -> Times {
        Times::new(self.size, self.daemon, lasting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_have_another_hash_and_fewer_another_count() {
        let (hash, file) = (hex(&Sha256::digest(b"abc")), PathBuf::new());
        let asked = Asked { daemon: 0, size: 3, hash, file };
        let told = |bytes: &[u8], mut hearer: Hearer| {
            hearer.all_of(bytes).unwrap();
            hearer.told()
        };
        asked.check_hash(&told(b"abc", Hearer::Hashes(Sha256::new()))).unwrap();
        asked.check_hash(&told(b"abd", Hearer::Hashes(Sha256::new()))).unwrap_err();
        asked.whole((Duration::ZERO, told(b"abc", Hearer::Counts(0)))).unwrap();
        asked.whole((Duration::ZERO, told(b"ab", Hearer::Counts(0)))).unwrap_err();
    }
}
