//! What proves to a registry who pulls. Errors here never show a value.

use ::image::{Credentials, Secret};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri_proto::cri;

use super::{At, Invalid};

/// The most specific secret that is there counts.
pub(crate) fn credentials(at: &At<'_>, wire: cri::AuthConfig) -> Result<Credentials, Invalid> {
    let server_address = wire.server_address;
    let secret = if !wire.registry_token.is_empty() {
        Secret::RegistryToken(wire.registry_token)
    } else if !wire.identity_token.is_empty() {
        Secret::IdentityToken(wire.identity_token)
    } else if !wire.username.is_empty() {
        Secret::Basic { user: wire.username, password: wire.password }
    } else if !wire.auth.is_empty() {
        pair(&at.field("auth"), &wire.auth)?
    } else {
        Secret::Anonymous
    };
    Ok(Credentials { secret, server_address })
}

fn pair(at: &At<'_>, text: &str) -> Result<Secret, Invalid> {
    let wrong = || at.invalid("is not the base64 of user:password");
    let bytes = STANDARD.decode(text.trim()).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (user, password) = text.split_once(':').ok_or_else(wrong)?;
    let password = password.trim_end_matches('\0');
    Ok(Secret::Basic { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(wire: cri::AuthConfig) -> Result<Secret, Invalid> {
        credentials(&At::root("auth"), wire).map(|credentials| credentials.secret)
    }

    #[test]
    fn a_token_counts_before_a_password_and_docker_s_pair_is_read() {
        let pair = cri::AuthConfig { auth: "YTpiOmM=".to_owned(), ..Default::default() };
        let basic = Secret::Basic { user: "a".to_owned(), password: "b:c".to_owned() };
        assert!(parsed(pair.clone()).is_ok_and(|secret| secret == basic));
        let token = cri::AuthConfig { registry_token: "t".to_owned(), ..pair };
        assert!(parsed(token).is_ok_and(|secret| secret == Secret::RegistryToken("t".to_owned())));
        assert!(parsed(cri::AuthConfig::default()).is_ok_and(|s| s == Secret::Anonymous));
    }

    #[test]
    fn an_error_does_not_show_the_secret() {
        let wire = cri::AuthConfig { auth: "c2VjcmV0".to_owned(), ..Default::default() };
        let error = parsed(wire).err().unwrap().to_string();
        assert_eq!(error, "auth.auth: is not the base64 of user:password");
    }
}
