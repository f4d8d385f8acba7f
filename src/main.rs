//! Ferropod: a container runtime for Kubernetes nodes. This is the daemon, and the command line that talks to it.
//!
//! It translates and wires up, and owns no lifecycle: pods are the engine's, images and networks their crates'.
//!
//! | module | holds |
//! |---|---|
//! | [`args`] | what was typed |
//! | [`config`] | what it means: files, drop-ins and flags, checked once |
//! | [`assemble`] | builds the rooms and hands them to each other |
//! | [`check`] | what the node has and lacks |
//! | [`mod@serve`] | the socket, the layers around every call, the end |
//! | [`cri`] | the CRI's services: parse, one call, reply |
//! | [`stream`] | exec, attach and port-forward on the wire |
//! | [`client`] | `ferropod image …` |

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use args::{Arguments, Command, Place};
use config::{Config, LogFormat};

mod args;
mod assemble;
mod check;
mod client;
mod config;
mod cri;
mod serve;
mod stream;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(args: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { place, command } = args;
    match command {
        Command::Serve(flags) => serve(&Config::load(&place, flags.network)?)?,
        Command::Check => return Ok(check::run(&load(&place)?)?),
        Command::Config(args::Config::Default) => print(config::DEFAULT)?,
        Command::Image(command) => client::run(&load(&place)?.socket(), command)?,
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "ferropod", &mut io::stdout());
        }
        Command::Version => print(concat!("ferropod ", env!("CARGO_PKG_VERSION"), "\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn load(place: &Place) -> Result<Config, config::ConfigError> {
    Config::load(place, None)
}

fn serve(config: &Config) -> anyhow::Result<()> {
    start_log(config)?;
    serve::place::in_init_mount_namespace()?;
    serve::place::raise_open_files();
    serve::place::make_dir(&config.root, 0o700)?;
    // Containers in a user namespace reach what is staged for them through it; what is in it is shut by its own mode.
    serve::place::make_dir(&config.state, 0o711)?;
    let _locks =
        [serve::lock::DirLock::take(&config.root)?, serve::lock::DirLock::take(&config.state)?];
    serve::memory::share_arenas();
    let workers = serve::memory::workers();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    runtime.context("start the async runtime")?.block_on(async {
        serve::metrics::start(&config.metrics.address).await?;
        let engine = assemble::assemble(config).await?;
        let checked = config.clone();
        tokio::task::spawn_blocking(move || check::warn_of_network(&checked));
        let stop = watch::Sender::new(false);
        let streams = serve::streams::Streams::listen(&config.stream).await?;
        let urls = Arc::new(stream::Urls::new(streams.base(), host::proc::random_id));
        let server = stream_server(config, &engine, &urls, stop.subscribe());
        let streaming = tokio::spawn(streams.serve(server, stop.subscribe()));
        let services = services(config, engine, urls, stop.subscribe());
        serve::serve(config, services.routes(), stop).await?;
        // An error means that it panicked.
        drop(streaming.await);
        Ok(())
    })
}

fn services(
    config: &Config,
    engine: assemble::Ferropod,
    urls: Arc<stream::Urls>,
    stop: watch::Receiver<bool>,
) -> cri::Services<assemble::Node> {
    let rooms = engine.world();
    cri::Services {
        images: rooms.images.clone(),
        network: rooms.network.clone(),
        node: Arc::new(cri::Node {
            systemd_cgroups: rooms.cgroups.driver() == host::cgroup::Driver::Systemd,
            recursive_read_only: rooms.facts.recursive_read_only,
            no_user_namespaces: rooms.facts.no_user_namespaces.clone(),
            handlers: rooms.handlers.abilities(),
            config: config.shown(),
        }),
        rates: Arc::default(),
        urls,
        stop,
        engine,
    }
}

fn stream_server(
    config: &Config,
    engine: &assemble::Ferropod,
    urls: &Arc<stream::Urls>,
    stop: watch::Receiver<bool>,
) -> stream::Server<assemble::Node> {
    let patience = stream::Patience {
        idle: config.stream.idle_timeout.duration(),
        creation: config.stream.creation_timeout.duration(),
    };
    stream::Server { engine: engine.clone(), urls: Arc::clone(urls), patience, stop }
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log.level).context("log.level")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.log.format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

fn print(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}

/// The whole chain on one line: each part says what its source does not.
fn report(error: &anyhow::Error) {
    // Nobody is left to be told when this fails.
    drop(writeln!(io::stderr(), "ferropod: {error:#}"));
}
