//! `ferropod image …`: asks the daemon on its socket, and shows the answer.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use cri_proto::cli::images_client::ImagesClient;
use cri_proto::cli::{
    Credentials, ExportRequest, Image, ImportRequest, ListRequest, PullRequest, RemoveRequest,
    pull_response::Step,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::args;
use bar::Bar;

mod bar;

type Client = ImagesClient<Channel>;

/// Runs one command; its output goes to standard output.
pub(crate) fn run(socket: &Path, command: args::Image) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = connect(socket).await?;
        match command {
            args::Image::Pull { reference, creds } => pull(&mut client, reference, creds).await,
            args::Image::Ls { filter, quiet } => list(&mut client, filter, quiet).await,
            args::Image::Rm { images } => remove(&mut client, images).await,
            args::Image::Import { path } => import(&mut client, &path).await,
            args::Image::Export { path, images } => export(&mut client, &path, images).await,
        }
    })
}

async fn connect(socket: &Path) -> anyhow::Result<Client> {
    let path = socket.to_owned();
    let dial = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // A unix socket has no address; the uri is there for the form's sake.
    let channel = Endpoint::from_static("http://ferropod").connect_with_connector(dial).await;
    let channel = channel.with_context(|| {
        format!("connect to the daemon at {} (does `ferropod serve` run?)", socket.display())
    })?;
    Ok(ImagesClient::new(channel))
}

async fn pull(client: &mut Client, reference: String, creds: Option<String>) -> anyhow::Result<()> {
    let credentials = creds.map(credentials).transpose()?;
    let request = PullRequest { reference, credentials };
    let mut steps = client.pull(request).await.map_err(said)?.into_inner();
    let bar = Bar::new();
    while let Some(step) = steps.message().await.map_err(said)? {
        match step.step {
            Some(Step::Progress(so_far)) => bar.show(so_far),
            Some(Step::Image(image)) => return say(&image.id),
            None => {}
        }
    }
    Err(anyhow!("the daemon ended the pull without a result"))
}

async fn list(client: &mut Client, filter: Option<String>, quiet: bool) -> anyhow::Result<()> {
    let request = ListRequest { filter: filter.unwrap_or_default() };
    let images = client.list(request).await.map_err(said)?.into_inner().images;
    if quiet {
        return images.iter().try_for_each(|image| say(&image.id));
    }
    say(&format!("{:<60} {:<13} {:>10}", "IMAGE", "ID", "SIZE"))?;
    images.iter().flat_map(rows).try_for_each(|row| say(&row))
}

/// A row for each name; an image without one has a row too.
fn rows(image: &Image) -> Vec<String> {
    let names = if image.tags.is_empty() { &image.digests } else { &image.tags };
    let id: String = image.id.trim_start_matches("sha256:").chars().take(13).collect();
    let size = indicatif::HumanBytes(image.size).to_string();
    let pinned = if image.pinned { "  pinned" } else { "" };
    let row = |name: &str| format!("{name:<60} {id:<13} {size:>10}{pinned}");
    if names.is_empty() { vec![row("<none>")] } else { names.iter().map(|n| row(n)).collect() }
}

async fn remove(client: &mut Client, references: Vec<String>) -> anyhow::Result<()> {
    let reply = client.remove(RemoveRequest { references }).await.map_err(said)?.into_inner();
    reply.removed.iter().try_for_each(|name| say(name))?;
    match reply.absent.as_slice() {
        [] => Ok(()),
        absent => Err(anyhow!("no such image: {}", absent.join(", "))),
    }
}

async fn import(client: &mut Client, path: &Path) -> anyhow::Result<()> {
    let request = ImportRequest { path: absolute(path)? };
    let images = client.import(request).await.map_err(said)?.into_inner().images;
    images.iter().flat_map(rows).try_for_each(|row| say(&row))
}

/// The file has its name only when it is whole.
async fn export(client: &mut Client, path: &Path, references: Vec<String>) -> anyhow::Result<()> {
    let request = ExportRequest { references };
    let mut pieces = client.export(request).await.map_err(said)?.into_inner();
    let mut unready = path.as_os_str().to_owned();
    unready.push("~");
    let mut file = File::create(&unready).with_context(|| format!("create {}", path.display()))?;
    let mut size = 0;
    while let Some(piece) = pieces.message().await.map_err(said)? {
        file.write_all(&piece.data).with_context(|| format!("write {}", path.display()))?;
        size += piece.data.len() as u64;
    }
    std::fs::rename(&unready, path).with_context(|| format!("name {}", path.display()))?;
    say(&format!("{} ({})", path.display(), indicatif::HumanBytes(size)))
}

/// The daemon's working directory is another.
fn absolute(path: &Path) -> anyhow::Result<String> {
    let path: PathBuf = std::path::absolute(path)?;
    path.into_os_string().into_string().map_err(|path| anyhow!("{} is not UTF-8", path.display()))
}

fn credentials(text: String) -> anyhow::Result<Credentials> {
    match text.split_once(':') {
        Some((name, password)) => {
            Ok(Credentials { username: name.to_owned(), password: password.to_owned() })
        }
        None => Ok(Credentials { username: text, password: read_password()? }),
    }
}

fn read_password() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        write!(io::stderr(), "Password: ")?;
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The status as the daemon worded it: its code says nothing more to a person.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(status: tonic::Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
