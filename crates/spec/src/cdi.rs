//! Devices of vendors, by the Container Device Interface: files on the node say what a container needs that is given a device
//! named `vendor.com/class=name`.
//!
//! Pure: whoever has read the files hands their text to [`Registry::read`]. The rules are those of the CDI specification 1.1:
//! JSON or YAML, unknown fields refused, a device of a later directory in place of one of an earlier, two of one directory a
//! conflict that is told when the device is asked for. Network devices and Intel RDT are not supported and told so;
//! hooks are left to whoever makes the container.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use names::Kind;

use file::{ContainerEdits, File};

/// Hooks of this stage are programs of the image.
const IN_THE_CONTAINER: &str = "startContainer";

/// All devices that the files of a node describe.
#[derive(Debug, Default)]
pub struct Registry {
    files: Vec<Read>,
    /// By its qualified name: the files that have it, of the last directory only.
    devices: BTreeMap<String, Vec<usize>>,
    /// Files that could not be understood.
    unread: Vec<(PathBuf, String)>,
}

#[derive(Debug)]
struct Read {
    path: PathBuf,
    file: File,
}

/// What a container gets with its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// `NAME=value`, over those of the client.
    pub env: Vec<String>,
    /// Device nodes.
    pub nodes: Vec<Node>,
    /// Mounts.
    pub mounts: Vec<Bind>,
    /// Programs of the vendor, run while the container is made.
    pub hooks: Vec<Hook>,
    /// Supplemental groups.
    pub gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// In the container.
    pub path: String,
    /// On the host.
    pub host_path: String,
    /// Of `rwm`; may be empty.
    pub permissions: String,
    /// `c`, `b`, `u` or `p` with major and minor number, when the host's node is not to be asked.
    pub number: Option<(char, i64, i64)>,
    /// Instead of the host's.
    pub mode: Option<u32>,
    /// Instead of the container's user.
    pub uid: Option<u32>,
    /// Instead of the container's group.
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// In the container.
    pub container_path: String,
    /// On the host; for other kinds of mounts the source.
    pub host_path: String,
    /// `bind`, `tmpfs`, …
    pub kind: String,
    /// As fstab writes them.
    pub options: Vec<String>,
}

/// A program that the runtime is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// `createContainer`, …
    pub at: String,
    /// The program.
    pub path: String,
    /// Its arguments, the zeroth included.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// In seconds.
    pub timeout: Option<i64>,
}

/// Why a device cannot be given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CdiError {
    /// Not `vendor.com/class=name`.
    #[error("config.CDI_devices: {0:?} is not of the form vendor.com/class=name")]
    Name(String),
    /// No file has it.
    #[error("config.CDI_devices: no CDI file describes {name}{}", also(.unread))]
    Unknown {
        /// The device.
        name: String,
        /// Files that might have, but are not understood.
        unread: Vec<String>,
    },
    /// More than one file of a directory has it.
    #[error("config.CDI_devices: {name} is described by {} and by {}", .paths[0].display(), .paths[1].display())]
    Conflict {
        /// The device.
        name: String,
        /// Two of the files.
        paths: [PathBuf; 2],
    },
    /// It asks for what cannot be done.
    #[error("config.CDI_devices: {name}: {what} of {} are not supported", .path.display())]
    Unsupported {
        /// The device.
        name: String,
        /// `netDevices`, …
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// An edit has a value that cannot be.
    #[error("config.CDI_devices: {name}: {}: {why}", .path.display())]
    Edit {
        /// The device.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

fn also(files: &[String]) -> String {
    if files.is_empty() {
        String::new()
    } else {
        format!(" (not understood: {})", files.join("; "))
    }
}

impl CdiError {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::Name(_) | Self::Unknown { .. } | Self::Conflict { .. } | Self::Edit { .. } => {
                Kind::Invalid
            }
        }
    }
}

/// Whether this is the qualified name of a device.
pub fn is_device_name(name: &str) -> bool {
    let Some((kind, device)) = name.split_once('=') else { return false };
    is_kind(kind) && is_word(device, "_-.:")
}

fn is_kind(kind: &str) -> bool {
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    let letter = |word: &str| word.starts_with(|c: char| c.is_ascii_alphabetic());
    [vendor, class].iter().all(|word| letter(word) && is_word(word, "_-."))
}

fn is_word(word: &str, also: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    ends(word.chars().next()) && ends(word.chars().next_back()) && word.chars().all(inside)
}

impl Registry {
    /// Understands files, those of the directory that counts least first. Of one that could not be read it is known why.
    pub fn read(files: Vec<(PathBuf, Result<String, String>)>) -> Self {
        let mut registry = Self::default();
        for (path, text) in files {
            match text.and_then(|text| file::parse(&text)) {
                Ok(file) => registry.add(path, file),
                Err(why) => registry.unread.push((path, why)),
            }
        }
        registry
    }

    fn add(&mut self, path: PathBuf, file: File) {
        let number = self.files.len();
        for device in &file.devices {
            let has = self.devices.entry(format!("{}={}", file.kind, device.name)).or_default();
            let before =
                has.first().and_then(|n| self.files.get(*n)).map(|read| read.path.parent());
            if before != Some(path.parent()) {
                has.clear();
            }
            has.push(number);
        }
        self.files.push(Read { path, file });
    }

    /// The names of all devices, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// The files that are no CDI files, each with why.
    pub fn not_understood(&self) -> impl Iterator<Item = String> {
        self.unread.iter().map(|(path, why)| format!("{}: {why}", path.display()))
    }

    /// The programs of the node that hooks name, each with the file that names it.
    pub fn programs(&self) -> BTreeSet<(String, &Path)> {
        let hooks = |read: &Read| {
            let devices = read.file.devices.iter().map(|device| &device.container_edits);
            let all = devices.chain([&read.file.container_edits]).flat_map(|edits| &edits.hooks);
            let all = all.map(file::Hook::hook).filter(|hook| hook.at != IN_THE_CONTAINER);
            all.map(|hook| hook.path).collect::<Vec<_>>()
        };
        let of_file = |read| hooks(read).into_iter().map(|path| (path, read.path.as_path()));
        self.files.iter().flat_map(of_file).collect()
    }

    /// What a container gets with these devices.
    ///
    /// # Errors
    /// See [`CdiError`].
    pub fn edits(&self, names: &[String]) -> Result<Edits, CdiError> {
        let (mut edits, mut common) = (Edits::default(), BTreeSet::new());
        for name in names {
            let (number, read) = self.find(name)?;
            let of_file = common.insert(number).then_some(&read.file.container_edits);
            let device = read.file.devices.iter().find(|d| name.ends_with(&format!("={}", d.name)));
            let own = device.map(|device| &device.container_edits);
            for more in of_file.into_iter().chain(own) {
                edits.take(more, name, &read.path)?;
            }
        }
        Ok(edits)
    }

    fn find(&self, name: &str) -> Result<(usize, &Read), CdiError> {
        if !is_device_name(name) {
            return Err(CdiError::Name(name.to_owned()));
        }
        let has = self.devices.get(name).map_or(&[][..], Vec::as_slice);
        let read = |n: &usize| self.files.get(*n).map(|read| (*n, read));
        match (has.first().and_then(read), has.get(1).and_then(read)) {
            (Some(found), None) => Ok(found),
            (Some((_, one)), Some((_, other))) => Err(CdiError::Conflict {
                name: name.to_owned(),
                paths: [one.path.clone(), other.path.clone()],
            }),
            (None, _) => {
                let unread = self.not_understood().collect();
                Err(CdiError::Unknown { name: name.to_owned(), unread })
            }
        }
    }
}

impl Edits {
    fn take(&mut self, more: &ContainerEdits, name: &str, path: &Path) -> Result<(), CdiError> {
        let unsupported =
            [("netDevices", !more.net_devices.is_empty()), ("intelRdt", more.intel_rdt.is_some())];
        if let Some((what, _)) = unsupported.into_iter().find(|(_, asked)| *asked) {
            return Err(CdiError::Unsupported {
                name: name.to_owned(),
                what,
                path: path.to_owned(),
            });
        }
        let wrong = |why| CdiError::Edit { name: name.to_owned(), path: path.to_owned(), why };
        more.check().map_err(wrong)?;
        self.env.extend(more.env.iter().cloned());
        self.nodes.extend(more.device_nodes.iter().map(file::DeviceNode::node));
        self.mounts.extend(more.mounts.iter().map(file::Mount::bind));
        self.hooks.extend(more.hooks.iter().map(file::Hook::hook));
        self.gids.extend(more.additional_gids.iter().copied().filter(|gid| *gid != 0));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
