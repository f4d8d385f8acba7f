//! Who the process is: numbers, found in the image's own passwd and group files.
//!
//! Both files are written by strangers: they are opened below the root with every link resolved inside it, must be regular,
//! and are refused above a bound. Numbers are 32 bits and never wrap; -1 is no id.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;

use wire::v1;

use crate::raw;
use process::failure::{At, Failure, Kind};

const STAGE: &str = "user";
const LARGEST_FILE: u64 = 1 << 20;

/// A user in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The primary group is among them.
    pub(crate) groups: Vec<u32>,
    /// The home directory that the image's passwd names.
    pub(crate) home: Option<String>,
}

/// Finds the user that a job asks for in the image below `root`.
pub(crate) fn resolve(root: BorrowedFd<'_>, wanted: &v1::User) -> Result<Resolved, Failure> {
    let files = Files {
        passwd: read_bounded(root, c"etc/passwd")?,
        group: read_bounded(root, c"etc/group")?,
    };
    files.resolve(wanted)
}

fn read_bounded(root: BorrowedFd<'_>, path: &CStr) -> Result<String, Failure> {
    let name = path.to_string_lossy();
    let resolve = raw::RESOLVE_IN_ROOT | raw::RESOLVE_NO_MAGICLINKS;
    let place = match raw::open_below(root, path, libc::O_PATH, resolve) {
        Ok(place) => File::from(place),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => return Ok(String::new()),
        Err(e) => return Err(e).at(STAGE, || format!("opening the image's /{name}")),
    };
    // Opening a device or a pipe would do something; a place does nothing.
    let stat = place.metadata().at(STAGE, || format!("looking at the image's /{name}"))?;
    if !stat.is_file() || stat.mode() & libc::S_IFMT != libc::S_IFREG {
        return Err(Failure::invalid(STAGE, format!("the image's /{name} is not a regular file")));
    }
    let file = File::open(format!("/proc/self/fd/{}", raw::shown(&place)))
        .at(STAGE, || format!("opening the image's /{name}"))?;
    let mut bytes = Vec::new();
    let reading = file.take(LARGEST_FILE + 1).read_to_end(&mut bytes);
    let read = reading.at(STAGE, || format!("reading the image's /{name}"))?;
    if u64::try_from(read).unwrap_or(u64::MAX) > LARGEST_FILE {
        let message = format!("the image's /{name} is larger than {LARGEST_FILE} bytes");
        return Err(Failure::invalid(STAGE, message));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Files {
    passwd: String,
    group: String,
}

#[derive(Default)]
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Files {
    fn resolve(&self, wanted: &v1::User) -> Result<Resolved, Failure> {
        let from_image = wanted.uid.is_none() && wanted.name.is_empty();
        let (user, group) = if from_image { split(&wanted.image_user) } else { ("", None) };
        let account = match (wanted.uid, wanted.name.as_str()) {
            (Some(uid), _) => self.by_uid(checked(uid, "user")?),
            (None, "") if user.is_empty() => self.by_uid(0),
            (None, "") => self.by_text(user)?,
            (None, name) => self.by_name(name)?,
        };
        let gid = match (wanted.gid, group) {
            (Some(gid), _) => checked(gid, "group")?,
            (None, Some(group)) => self.group_by_text(group)?,
            (None, None) => account.gid,
        };
        // In the order that Kubernetes' own tests ask for.
        let mut groups = vec![gid];
        if !wanted.strict_groups {
            groups.extend(self.groups_of(account.name));
        }
        for group in &wanted.groups {
            groups.push(checked(*group, "group")?);
        }
        Ok(Resolved {
            uid: account.uid,
            gid,
            groups: unique(groups),
            home: (!account.home.is_empty()).then(|| account.home.to_owned()),
        })
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = id(fields.nth(1)?)?;
            let gid = id(fields.next()?)?;
            let home = fields.nth(1).unwrap_or_default();
            Some(Account { name, uid, gid, home })
        })
    }

    fn by_uid(&self, uid: u32) -> Account<'_> {
        let found = self.accounts().find(|a| a.uid == uid);
        found.unwrap_or_else(|| Account { uid, ..Account::default() })
    }

    fn by_name(&self, name: &str) -> Result<Account<'_>, Failure> {
        self.accounts().find(|a| a.name == name).ok_or_else(|| {
            Failure::new(
                STAGE,
                Kind::Invalid,
                format!("no user {name:?} in the image's /etc/passwd"),
            )
        })
    }

    /// All digits is a number, whatever names the image's files contain.
    fn by_text(&self, text: &str) -> Result<Account<'_>, Failure> {
        if is_number(text) { Ok(self.by_uid(number(text, "user")?)) } else { self.by_name(text) }
    }

    fn group_by_text(&self, text: &str) -> Result<u32, Failure> {
        if is_number(text) {
            return number(text, "group");
        }
        let found = self.group_lines().find(|(name, ..)| *name == text);
        found.map(|(_, gid, _)| gid).ok_or_else(|| {
            Failure::new(
                STAGE,
                Kind::Invalid,
                format!("no group {text:?} in the image's /etc/group"),
            )
        })
    }

    fn group_lines(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = id(fields.nth(1)?)?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }

    fn groups_of(&self, name: &str) -> Vec<u32> {
        let member = |members: &str| members.split(',').any(|m| !m.is_empty() && m.trim() == name);
        self.group_lines()
            .filter(|(_, _, members)| member(members))
            .map(|(_, gid, _)| gid)
            .collect()
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (text, None),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn number(text: &str, what: &str) -> Result<u32, Failure> {
    let out_of_range = || Failure::invalid(STAGE, format!("{what} {text} is out of range"));
    text.parse().ok().filter(|n| *n != u32::MAX).ok_or_else(out_of_range)
}

fn checked(id: u32, what: &str) -> Result<u32, Failure> {
    number(&id.to_string(), what)
}

fn id(field: &str) -> Option<u32> {
    field.trim().parse().ok().filter(|n| *n != u32::MAX)
}

fn unique(mut groups: Vec<u32>) -> Vec<u32> {
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|g| seen.insert(*g));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\nbroken\nmax:x:4294967295:1::/:\n7:x:70:71::/seven:\n"
                .into(),
            group: "root:x:0:\nwww:x:34:\nlog:x:50:web,other\ntape:x:51:other\nempty:x:52:\n".into(),
        }
    }

    fn image(user: &str) -> v1::User {
        v1::User { image_user: user.into(), ..v1::User::default() }
    }

    fn ids(wanted: &v1::User) -> (u32, u32, Vec<u32>) {
        let r = files().resolve(wanted).unwrap();
        (r.uid, r.gid, r.groups)
    }

    fn refusal(wanted: &v1::User) -> String {
        files().resolve(wanted).unwrap_err().message
    }

    #[test]
    fn every_form_of_an_images_user_is_understood() {
        assert_eq!(ids(&image("")), (0, 0, vec![0]));
        assert_eq!(ids(&image("web")), (33, 34, vec![34, 50]));
        assert_eq!(ids(&image("33")), (33, 34, vec![34, 50]));
        assert_eq!(ids(&image("web:tape")), (33, 51, vec![51, 50]));
        assert_eq!(ids(&image("33:7")), (33, 7, vec![7, 50]));
        assert_eq!(ids(&image("1234")), (1234, 0, vec![0]));
        assert_eq!(ids(&image("1234:5678")), (1234, 5678, vec![5678]));
        assert_eq!(ids(&image("web:")), (33, 34, vec![34, 50]));
    }

    #[test]
    fn digits_are_a_number_and_never_a_name() {
        assert_eq!(ids(&image("7")), (7, 0, vec![0]));
    }

    #[test]
    fn a_user_that_is_not_there_or_out_of_range_is_named() {
        assert!(refusal(&image("nobody")).contains("\"nobody\""));
        assert!(refusal(&image("web:none")).contains("\"none\""));
        for wrap in ["4294967295", "4294967296", "18446744073709551616", "0:4294967296"] {
            assert!(refusal(&image(wrap)).contains("out of range"), "{wrap}");
        }
        assert!(refusal(&image("-1")).contains("no user"));
        assert!(refusal(&image("max")).contains("no user"));
    }

    #[test]
    fn the_clients_user_goes_before_the_images() {
        let by_uid = v1::User { uid: Some(33), image_user: "root".into(), ..Default::default() };
        assert_eq!(ids(&by_uid), (33, 34, vec![34, 50]));
        let by_name = v1::User {
            name: "web".into(),
            gid: Some(9),
            groups: vec![1, 50],
            ..Default::default()
        };
        assert_eq!(ids(&by_name), (33, 9, vec![9, 50, 1]));
        let name = v1::User { name: "33".into(), ..Default::default() };
        assert!(refusal(&name).contains("\"33\""), "a name is not a number");
    }

    #[test]
    fn strict_groups_are_only_those_given_and_the_primary() {
        let strict = v1::User {
            uid: Some(33),
            groups: vec![1234],
            strict_groups: true,
            ..Default::default()
        };
        assert_eq!(ids(&strict), (33, 34, vec![34, 1234]));
    }

    #[test]
    fn home_comes_from_the_account() {
        assert_eq!(files().resolve(&image("web")).unwrap().home.as_deref(), Some("/srv"));
        assert_eq!(files().resolve(&image("99")).unwrap().home, None);
    }
}
