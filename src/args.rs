//! What was typed. What it means is [`crate::config`]'s affair.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A container runtime for Kubernetes nodes.
#[derive(Debug, Parser)]
#[command(name = "ferropod", version, about, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the daemon lives; each overrides the configuration.
#[derive(Debug, Default, Args)]
pub(crate) struct Place {
    /// Configuration file; its drop-ins are FILE.d/*.toml [default: /etc/ferropod/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of what outlives a reboot: images, layers, records
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Directory of what a reboot ends: sockets, bundles, records of pods
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Unix socket of the daemon [default: ferropod.sock in the state directory]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,engine=debug`
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon: serve the CRI on the socket
    Serve(Serve),
    /// Tell what this node has and lacks
    Check,
    /// Show configuration
    #[command(subcommand)]
    Config(Config),
    /// Look after the daemon's images
    #[command(subcommand)]
    Image(Image),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

#[derive(Debug, Default, Args)]
pub(crate) struct Serve {
    /// Which network pods get
    #[arg(long)]
    pub(crate) network: Option<Network>,
}

/// Spelt as in the configuration file.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Network {
    /// The embedded, routed one
    Native,
    /// CNI plugins
    Cni,
    /// CNI where it is configured, else the embedded one
    Auto,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print the default configuration, with comments
    Default,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Fetch an image from its registry
    Pull {
        /// Reference by tag or digest
        reference: String,
        /// USER or USER:PASSWORD for the registry; a missing password is read from standard input
        #[arg(long, value_name = "USER[:PASSWORD]")]
        creds: Option<String>,
    },
    /// List images
    Ls {
        /// Only what this reference or prefix of an id selects
        filter: Option<String>,
        /// Print ids only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove images with all their names
    Rm {
        /// References or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Load images from an OCI layout or a docker archive
    Import {
        /// Directory or file
        path: PathBuf,
    },
    /// Write images to an archive, an OCI layout and docker archive at once
    Export {
        /// File to write
        path: PathBuf,
        /// References or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn places_are_understood_after_the_command_too() {
        let args =
            Arguments::try_parse_from(["ferropod", "image", "ls", "--socket", "/s"]).unwrap();
        assert_eq!(args.place.socket, Some(PathBuf::from("/s")));
    }
}
