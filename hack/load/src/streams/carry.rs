//! What a session carries, beside socat: the same bytes from the same file over the same pipes and sockets, with one socat where the
//! daemon is and one where crictl is. In turn, and medians are compared.

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

/// What socat must not be ahead by.
const SHARE: f64 = 0.8;
const ROUNDS: usize = 5;
/// On loopback.
const BY_CRICTL: u16 = 19_000;
const BY_SOCAT: u16 = 19_001;
/// Between the two socats.
const BETWEEN: u16 = 19_002;
const PIECE: usize = 256 << 10;
/// Of the pipes between this program and its children, for crictl and socat alike.
const PIPE: i32 = 1 << 20;
/// socat's own default is 8 KiB.
const SOCAT: &str = "socat -b 262144";

/// Whoever takes what is said.
enum Hearer {
    Counts(usize),
    Hashes(Sha256),
}

/// What is asked of one way of carrying.
struct Asked {
    size: usize,
    hash: String,
    file: PathBuf,
}

pub(super) async fn measure(
    scene: &Scene,
    crictl: &Crictl,
    transport: &str,
    mebibytes: usize,
) -> Result<Vec<Check>> {
    let asked =
        Asked { size: mebibytes << 20, hash: scene.make_noise(mebibytes)?, file: scene.file() };
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
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        times.ours.push(asked.whole(said(command(), b"", Hearer::Counts(0))?)?);
        times.socats.push(asked.whole(said(asked.socat_says(), b"", Hearer::Counts(0))?)?);
    }
    Ok(times.check("exec, output", asked))
}

fn exec_in(scene: &Scene, crictl: &Crictl, transport: &str, asked: &Asked) -> Result<Check> {
    let command =
        |script| crictl.command("exec", transport, &["-i", &scene.container, "sh", "-c", script]);
    asked.check_hash(&heard(command("sha256sum"), &asked.file)?.1)?;
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        times.ours.push(heard(command(TAKES), &asked.file)?.0);
        times.socats.push(heard(socat_hears(), &asked.file)?.0);
    }
    Ok(times.check("exec, input", asked))
}

async fn attach_out(
    scene: &Scene,
    crictl: &Crictl,
    transport: &str,
    asked: &Asked,
) -> Result<Check> {
    let mut times = Times::default();
    for round in 0..=ROUNDS {
        let script = format!("read -r _; exec {}", says(NOISE));
        let id = scene.start(&format!("says-{round}"), &script, Input::Open).await?;
        let command = crictl.command("attach", transport, &["-i", &id]);
        if round == 0 {
            asked.check_hash(&said(command, b"go\n", Hearer::Hashes(Sha256::new()))?.1)?;
        } else {
            times.ours.push(asked.whole(said(command, b"go\n", Hearer::Counts(0))?)?);
            times.socats.push(asked.whole(said(asked.socat_says(), b"", Hearer::Counts(0))?)?);
        }
        scene.remove(&id).await?;
    }
    Ok(times.check("attach, output", asked))
}

async fn attach_in(
    scene: &Scene,
    crictl: &Crictl,
    transport: &str,
    asked: &Asked,
) -> Result<Check> {
    let mut times = Times::default();
    for round in 0..=ROUNDS {
        let script = if round == 0 { "sha256sum" } else { TAKES };
        let id = scene.start(&format!("hears-{round}"), script, Input::Once).await?;
        let (took, told) = heard(crictl.command("attach", transport, &["-i", &id]), &asked.file)?;
        if round == 0 {
            asked.check_hash(&told)?;
        } else {
            times.ours.push(took);
            times.socats.push(heard(socat_hears(), &asked.file)?.0);
        }
        scene.remove(&id).await?;
    }
    Ok(times.check("attach, input", asked))
}

fn forward_out(scene: &Scene, crictl: &Crictl, transport: &str, asked: &Asked) -> Result<Check> {
    let _both = Relays::start(scene, crictl, transport, SAYS)?;
    let out = |port, mut hearer: Hearer| {
        let begun = Instant::now();
        hearer.all_of(connect(port)?)?;
        Ok::<_, anyhow::Error>((begun.elapsed(), hearer.told()))
    };
    asked.check_hash(&out(BY_CRICTL, Hearer::Hashes(Sha256::new()))?.1)?;
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        times.ours.push(asked.whole(out(BY_CRICTL, Hearer::Counts(0))?)?);
        times.socats.push(asked.whole(out(BY_SOCAT, Hearer::Counts(0))?)?);
    }
    Ok(times.check("port-forward, output", asked))
}

fn forward_in(scene: &Scene, crictl: &Crictl, transport: &str, asked: &Asked) -> Result<Check> {
    {
        let _hashing = Relays::start(scene, crictl, transport, HASHES)?;
        asked.check_hash(&sent(connect(BY_CRICTL)?, &asked.file)?.1)?;
    }
    let _both = Relays::start(scene, crictl, transport, HEARS)?;
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        for (port, times) in [(BY_CRICTL, &mut times.ours), (BY_SOCAT, &mut times.socats)] {
            let (took, told) = sent(connect(port)?, &asked.file)?;
            ensure!(told.trim() == "heard", "the pod said {told:?}");
            times.push(took);
        }
    }
    Ok(times.check("port-forward, input", asked))
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
fn socat_hears() -> Command {
    let beside = format!("{SOCAT} -u {} SYSTEM:'{TAKES}',pipes", listen(BETWEEN));
    let client = format!("{SOCAT} -u STDIN {}", reach(BETWEEN));
    shell(&format!("exec 3<&0; {beside} </dev/null & {client} <&3; wait"))
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
    _crictl: Running,
    _socats: [Running; 2],
}

impl Relays {
    fn start(scene: &Scene, crictl: &Crictl, transport: &str, port: u16) -> Result<Self> {
        let forward =
            Running::forward(crictl, transport, &scene.pod, &format!("{BY_CRICTL}:{port}"))?;
        let beside = format!("{SOCAT} {},fork TCP:{}:{port}", listen(BETWEEN), scene.ip);
        let client = format!("{SOCAT} {},fork {}", listen(BY_SOCAT), reach(BETWEEN));
        let socats = [
            Running::start(&mut shell(&format!("exec {beside}")))?,
            Running::start(&mut shell(&format!("exec {client}")))?,
        ];
        for _ in 0..500 {
            // It is a connection to the pod too, and ends at once.
            if connect(BY_SOCAT).is_ok() {
                return Ok(Self { _crictl: forward, _socats: socats });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("socat does not listen")
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

    fn socat_says(&self) -> Command {
        let says = says(self.file.display());
        let beside = format!("{SOCAT} -u SYSTEM:'{says}',pipes {}", listen(BETWEEN));
        shell(&format!("{beside} & exec {SOCAT} -u {} STDOUT", reach(BETWEEN)))
    }
}

#[derive(Debug, Default)]
struct Times {
    ours: Vec<Duration>,
    socats: Vec<Duration>,
}

impl Times {
    fn check(&self, what: &str, asked: &Asked) -> Check {
        let rate = |times: &[Duration]| {
            let mebibytes = u32::try_from(asked.size >> 20).unwrap_or(u32::MAX);
            f64::from(mebibytes) / median(times).as_secs_f64()
        };
        let (ours, socats) = (rate(&self.ours), rate(&self.socats));
        let share = ours / socats;
        let figures = format!(
            "{ours:.0} MiB/s, socat {socats:.0}: {:.0} %; the hash is right",
            share * 100.0
        );
        Check::new(share >= SHARE, what, &figures)
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_below_the_limit_fails_and_one_above_does_not() {
        let asked = Asked { size: 1 << 20, hash: String::new(), file: PathBuf::new() };
        let of = |ours| Times {
            ours: vec![Duration::from_millis(ours); 3],
            socats: vec![Duration::from_millis(100); 3],
        };
        assert!(of(120).check("", &asked).holds);
        assert!(!of(130).check("", &asked).holds);
    }

    #[test]
    fn other_bytes_have_another_hash_and_fewer_another_count() {
        let asked = Asked { size: 3, hash: hex(&Sha256::digest(b"abc")), file: PathBuf::new() };
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
