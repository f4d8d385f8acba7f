//! `hosts.toml`, containerd's way to name mirrors: one directory per registry host.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use super::endpoint::{ConfigError, Endpoint, Tls, header};
use crate::reference::Reference;

#[derive(Deserialize, Default)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    own: Host,
    #[serde(default)]
    host: toml::Table,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<toml::Value>,
    skip_verify: Option<bool>,
    override_path: bool,
    header: toml::Table,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// One file being read for one reference.
struct Reading<'r> {
    path: &'r Path,
    reference: &'r Reference,
}

/// The servers that the file for this host names, its own server last; none without a file.
pub(super) fn find(
    dirs: &[PathBuf],
    reference: &Reference,
) -> Result<Option<Vec<Endpoint>>, ConfigError> {
    let host = reference.host();
    // containerd also knows the port between underscores, for file systems without colons.
    let flat = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
    for dir in dirs {
        for name in [Some(host), flat.as_deref(), Some("_default")].into_iter().flatten() {
            let path = dir.join(name).join("hosts.toml");
            match std::fs::read_to_string(&path) {
                Ok(text) => return Reading { path: &path, reference }.read(&text).map(Some),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(source) => return Err(ConfigError::Read { path, source }),
            }
        }
    }
    Ok(None)
}

impl Reading<'_> {
    fn read(&self, text: &str) -> Result<Vec<Endpoint>, ConfigError> {
        let file: File = toml::from_str(text).map_err(|e| self.wrong(e.message()))?;
        let mut found = Vec::new();
        for (name, value) in file.host {
            let host: Result<Host, toml::de::Error> = value.try_into();
            let host = host.map_err(|e| self.wrong(e.message()))?;
            found.extend(self.endpoint(&name, &host, true)?);
        }
        if let Some(server) = &file.server {
            found.extend(self.endpoint(server, &file.own, false)?);
        }
        Ok(found)
    }

    /// None when the host may not be pulled from.
    fn endpoint(
        &self,
        server: &str,
        host: &Host,
        mirror: bool,
    ) -> Result<Option<Endpoint>, ConfigError> {
        let can = |what: &str| {
            host.capabilities.as_ref().is_none_or(|all| all.iter().any(|can| can == what))
        };
        if !can("pull") {
            return Ok(None);
        }
        let beside =
            |file: PathBuf| self.path.parent().unwrap_or_else(|| Path::new("/")).join(file);
        let ca = match host.ca.clone() {
            None => Vec::new(),
            Some(OneOrMany::One(one)) => vec![beside(one)],
            Some(OneOrMany::Many(many)) => many.into_iter().map(beside).collect(),
        };
        let client = client_files(host.client.as_ref()).into_iter().map(beside).collect();
        Ok(Some(Endpoint {
            base: self.base(server, host.override_path)?,
            repository: self.reference.repository().to_owned(),
            mirror,
            namespace: mirror.then(|| self.reference.host().to_owned()),
            resolves: can("resolve"),
            tls: Tls { insecure: host.skip_verify.unwrap_or(false), ca, client },
            headers: self.headers(&host.header)?,
        }))
    }

    /// The version is the path's last part unless the file says that the path is complete.
    fn base(&self, server: &str, complete: bool) -> Result<Url, ConfigError> {
        let full =
            if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
        let mut base = Url::parse(&full).map_err(|e| self.wrong(&format!("{server}: {e}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(self.wrong(&format!("{server}: neither http nor https")));
        }
        let given = base.path().trim_end_matches('/').to_owned();
        let complete = complete || given.ends_with("/v2");
        base.set_path(&if complete { format!("{given}/") } else { format!("{given}/v2/") });
        Ok(base)
    }

    fn headers(&self, table: &toml::Table) -> Result<HeaderMap, ConfigError> {
        let mut headers = HeaderMap::new();
        for (name, value) in table {
            let values = match value {
                toml::Value::Array(values) => values.as_slice(),
                one => std::slice::from_ref(one),
            };
            for value in values.iter().filter_map(toml::Value::as_str) {
                let (name, value) = header(name, value)
                    .ok_or_else(|| self.wrong(&format!("malformed header {name}")))?;
                headers.append(name, value);
            }
        }
        Ok(headers)
    }

    fn wrong(&self, what: &str) -> ConfigError {
        ConfigError::Parse { path: self.path.to_owned(), what: what.to_owned() }
    }
}

/// A file with both, or a list whose first element is a pair: the first client certificate is used.
fn client_files(value: Option<&toml::Value>) -> Vec<PathBuf> {
    match value {
        Some(toml::Value::String(one)) => vec![one.into()],
        Some(toml::Value::Array(many)) => match many.first() {
            Some(toml::Value::Array(pair)) => {
                pair.iter().filter_map(toml::Value::as_str).map(PathBuf::from).collect()
            }
            Some(toml::Value::String(one)) => vec![one.into()],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Vec<Endpoint>, ConfigError> {
        let reference = "docker.io/a/b:1".parse().unwrap();
        let path = Path::new("/etc/certs.d/x/hosts.toml");
        Reading { path, reference: &reference }.read(text)
    }

    #[test]
    fn mirrors_come_in_the_order_written_and_the_server_last() {
        let found = with(
            r#"
            server = "https://registry-1.docker.io"
            [host."http://zz:5000"]
            capabilities = ["pull", "resolve"]
            [host."https://aa/v2/prefix"]
            override_path = true
            ca = "my.crt"
            [host."https://aa/v2/prefix".header]
            X-Key = ["k"]
            [host."https://push.only"]
            capabilities = ["push"]
            "#,
        )
        .unwrap();
        let urls: Vec<_> = found.iter().map(|e| e.url("tags/list").unwrap().to_string()).collect();
        assert_eq!(
            urls,
            [
                "http://zz:5000/v2/a/b/tags/list?ns=docker.io",
                "https://aa/v2/prefix/a/b/tags/list?ns=docker.io",
                "https://registry-1.docker.io/v2/a/b/tags/list",
            ]
        );
        assert_eq!(found[1].tls.ca, [PathBuf::from("/etc/certs.d/x/my.crt")]);
        assert_eq!(found[1].headers.get("x-key").unwrap(), "k");
    }

    #[test]
    fn a_malformed_file_is_named() {
        let error = with("server = 3").unwrap_err().to_string();
        assert!(error.contains("/etc/certs.d/x/hosts.toml"), "{error}");
        with(r#"server = "ftp://x""#).unwrap_err();
    }
}
