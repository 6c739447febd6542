//! `sasl.jaas.config`, as Kafka's clients have it: one login module and its options.
//!
//! ```text
//!   org.apache.kafka.common.security.scram.ScramLoginModule required username="u" password="p";
//! ```
//! Owns the grammar. It is strict, because a value that is half understood logs in as somebody else; and no
//! error ever repeats a value, since one of them is the secret.

use crate::security::{SaslMechanism, Secret};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Longest text that is parsed.
const BYTES_MAX: usize = 64 << 10;
const PACKAGE: &str = "org.apache.kafka.common.security.";
/// Kerberos' own, which comes with Java.
const KERBEROS_MODULE: &str = "com.sun.security.auth.module.Krb5LoginModule";
/// Those of its options that mean something here. `storeKey` says of an acceptor what is so without it.
const KERBEROS_OPTIONS: &[&str] =
    &["useKeyTab", "keyTab", "principal", "useTicketCache", "storeKey", "serviceName"];
/// Of Amazon's own client, in a package of its own.
const IAM_MODULE: &str = "software.amazon.msk.auth.iam.IAMLoginModule";
const FLAGS: [&str; 4] = ["required", "requisite", "sufficient", "optional"];

/// What is wrong with the text. Names of options stand in it, values never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JaasFault {
    TooLong {
        bytes: usize,
    },
    Empty,
    /// Not a login module that this program knows.
    Module {
        module: String,
    },
    /// The module belongs to another mechanism.
    OtherMechanism {
        module: String,
        mechanism: SaslMechanism,
    },
    NoFlag,
    /// Something that is no `name=value`, after the option that is named.
    NotAnOption {
        after: String,
    },
    UnclosedQuote {
        option: String,
    },
    /// The module has no such option here.
    UnknownOption {
        option: String,
    },
    Twice {
        option: String,
    },
    MissingOption {
        option: &'static str,
    },
    /// The `;` at the end.
    NoEnd,
    /// Text behind the `;`: a second module, or a quote that was not escaped.
    BehindTheEnd,
}

impl fmt::Display for JaasFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(f, "it has {bytes} bytes, at most {BYTES_MAX} are read"),
            Self::Empty => write!(f, "it is empty"),
            Self::Module { module } => write!(
                f,
                "the login module {module:?} is not known; there are {PACKAGE}plain.PlainLoginModule, \
                 {PACKAGE}scram.ScramLoginModule, {PACKAGE}oauthbearer.OAuthBearerLoginModule, {IAM_MODULE} \
                 and {KERBEROS_MODULE}"
            ),
            Self::OtherMechanism { module, mechanism } => {
                write!(f, "the login module {module} does not go with sasl.mechanism = {mechanism}")
            }
            Self::NoFlag => write!(f, "behind the login module the word required is missing"),
            Self::NotAnOption { after } => {
                write!(f, "behind {after} something stands that is no name=\"value\"")
            }
            Self::UnclosedQuote { option } => write!(f, "the quote of {option} is not closed"),
            Self::UnknownOption { option } => write!(f, "the option {option} is not understood"),
            Self::Twice { option } => write!(f, "the option {option} stands there twice"),
            Self::MissingOption { option } => write!(f, "the option {option} is missing"),
            Self::NoEnd => write!(f, "it does not end with ;"),
            Self::BehindTheEnd => write!(f, "something stands behind its ;"),
        }
    }
}

/// One parsed module.
#[derive(Debug)]
pub struct JaasConfig {
    options: BTreeMap<String, Secret>,
}

impl JaasConfig {
    pub fn parse(text: &Secret, mechanism: SaslMechanism) -> Result<Self, JaasFault> {
        let text = text.expose();
        if text.len() > BYTES_MAX {
            return Err(JaasFault::TooLong { bytes: text.len() });
        }
        let mut rest = Rest(text.trim());
        let module = rest.word().to_owned();
        if module.is_empty() {
            return Err(JaasFault::Empty);
        }
        let known = known_options(&module, mechanism)?;
        if !FLAGS.iter().any(|flag| rest.word_is(flag)) {
            return Err(JaasFault::NoFlag);
        }
        let mut options = BTreeMap::new();
        let mut after = "required".to_owned();
        loop {
            rest.skip_blanks();
            if let Some(behind) = rest.0.strip_prefix(';') {
                let ended = behind.trim().is_empty();
                return if ended { Ok(Self { options }) } else { Err(JaasFault::BehindTheEnd) };
            }
            if rest.0.is_empty() {
                return Err(JaasFault::NoEnd);
            }
            let name = rest.name().ok_or(JaasFault::NotAnOption { after })?;
            if !known.contains(&name.as_str()) {
                return Err(JaasFault::UnknownOption { option: name });
            }
            let value = rest.value().ok_or_else(|| JaasFault::UnclosedQuote { option: name.clone() })?;
            if options.insert(name.clone(), value).is_some() {
                return Err(JaasFault::Twice { option: name });
            }
            after = name;
        }
    }

    pub fn option(&self, name: &str) -> Option<&Secret> {
        self.options.get(name).filter(|value| !value.is_empty())
    }

    pub fn required(&self, option: &'static str) -> Result<&Secret, JaasFault> {
        self.option(option).ok_or(JaasFault::MissingOption { option })
    }
}

/// The options of a module, when it is the mechanism's.
fn known_options(module: &str, mechanism: SaslMechanism) -> Result<&'static [&'static str], JaasFault> {
    use SaslMechanism::{AwsMskIam, Gssapi, OauthBearer, Plain, ScramSha256, ScramSha512};
    let known = |name: &str| JaasFault::Module { module: shown(name) };
    let (of, options): (&[SaslMechanism], &[&str]) = match module
        .strip_prefix(PACKAGE)
        .or_else(|| [IAM_MODULE, KERBEROS_MODULE].contains(&module).then_some(module))
        .ok_or_else(|| known(module))?
    {
        "plain.PlainLoginModule" => (&[Plain], &["username", "password"]),
        "scram.ScramLoginModule" => (&[ScramSha256, ScramSha512], &["username", "password", "tokenauth"]),
        "oauthbearer.OAuthBearerLoginModule" => (&[OauthBearer], &["clientId", "clientSecret", "scope"]),
        IAM_MODULE => (&[AwsMskIam], &["awsProfileName", "awsRoleArn"]),
        KERBEROS_MODULE => (&[Gssapi], KERBEROS_OPTIONS),
        _ => return Err(known(module)),
    };
    if of.contains(&mechanism) {
        Ok(options)
    } else {
        Err(JaasFault::OtherMechanism { module: shown(module), mechanism })
    }
}

/// A word that may be anything, even the password of who forgot the module: only what looks like a class.
fn shown(word: &str) -> String {
    let is_class = word.len() <= 120
        && word.contains('.')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_');
    if is_class { word.to_owned() } else { "(not a class name)".to_owned() }
}

/// What is left of the text.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start();
    }

    fn word(&mut self) -> &'a str {
        self.skip_blanks();
        let end = self.0.find(|letter: char| letter.is_whitespace() || letter == ';').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    fn word_is(&mut self, wanted: &str) -> bool {
        let mut ahead = Rest(self.0);
        let is = ahead.word().eq_ignore_ascii_case(wanted);
        if is {
            self.0 = ahead.0;
        }
        is
    }

    /// A name and the `=` behind it.
    fn name(&mut self) -> Option<String> {
        let (name, rest) = self.0.split_once('=')?;
        let name = name.trim_end();
        let legal = !name.is_empty()
            && name.len() <= 120
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        self.0 = rest.trim_start();
        legal.then(|| name.to_owned())
    }

    /// A value in quotes, in which `\` escapes one letter, or a bare word. `None`: the quote has no end.
    fn value(&mut self) -> Option<Secret> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            return Some(Secret::from(self.word()));
        };
        let mut value = Zeroizing::new(String::with_capacity(quoted.len()));
        let mut letters = quoted.char_indices();
        while let Some((index, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.0 = &quoted[index + 1..];
                    return Some(Secret::from(value.as_str()));
                }
                '\\' => value.push(letters.next()?.1),
                letter => value.push(letter),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SaslMechanism::{AwsMskIam, OauthBearer, Plain, ScramSha256, ScramSha512};

    const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule";
    const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule";
    const OAUTH: &str = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule";

    fn refuse(text: &str, mechanism: SaslMechanism) -> JaasFault {
        let fault = JaasConfig::parse(&Secret::from(text), mechanism).unwrap_err();
        assert!(
            !fault.to_string().contains("hunter2") && !format!("{fault:?}").contains("hunter2"),
            "{fault}"
        );
        fault
    }

    #[test]
    fn what_stands_in_client_files_is_understood() {
        for (text, mechanism, name, password) in [
            (format!("{PLAIN} required username=\"twin\" password=\"a b;c\";"), Plain, "twin", "a b;c"),
            (
                format!("{SCRAM} required\n  username=\"u\\\"x\"\n  password=\"p\\\\q\" ;\n"),
                ScramSha512,
                "u\"x",
                "p\\q",
            ),
            (format!("  {SCRAM} REQUIRED password=bare username = twin;"), ScramSha256, "twin", "bare"),
        ] {
            let jaas = JaasConfig::parse(&Secret::from(text.as_str()), mechanism).unwrap();
            assert_eq!(jaas.required("username").unwrap().expose(), name, "{text}");
            assert_eq!(jaas.required("password").unwrap().expose(), password, "{text}");
        }
        let text = format!("{SCRAM} required username=\"id\" password=\"hmac\" tokenauth=\"true\";");
        let jaas = JaasConfig::parse(&Secret::from(text.as_str()), ScramSha256).unwrap();
        assert_eq!(jaas.option("tokenauth").map(Secret::expose), Some("true"));
        let text = format!("{IAM_MODULE} required awsProfileName=\"twin\";");
        let jaas = JaasConfig::parse(&Secret::from(text.as_str()), AwsMskIam).unwrap();
        assert_eq!(jaas.option("awsProfileName").map(Secret::expose), Some("twin"));
        let text = format!("{OAUTH} required clientId=\"c\" clientSecret=\"s\" scope=\"\";");
        let jaas = JaasConfig::parse(&Secret::from(text.as_str()), OauthBearer).unwrap();
        assert!(jaas.option("scope").is_none() && jaas.option("clientId").is_some());
        assert_eq!(jaas.required("scope").unwrap_err(), JaasFault::MissingOption { option: "scope" });
    }

    #[test]
    fn what_is_wrong_is_named_and_the_secret_is_not() {
        use JaasFault as F;
        assert_eq!(refuse("", Plain), F::Empty);
        assert_eq!(refuse("hunter2", Plain), F::Module { module: "(not a class name)".into() });
        let ldap = "com.sun.security.auth.module.LdapLoginModule";
        assert_eq!(refuse(&format!("{ldap} required;"), Plain), F::Module { module: ldap.into() });
        assert!(matches!(refuse(&format!("{KERBEROS_MODULE} required;"), Plain), F::OtherMechanism { .. }));
        assert!(matches!(refuse(&format!("{PLAIN} required;"), ScramSha256), F::OtherMechanism { .. }));
        assert_eq!(refuse(&format!("{PLAIN} username=\"hunter2\";"), Plain), F::NoFlag);
        let plain = |rest: &str| refuse(&format!("{PLAIN} required {rest}"), Plain);
        assert_eq!(
            plain("username=\"u\" password=\"hunter2;"),
            F::UnclosedQuote { option: "password".into() }
        );
        assert_eq!(plain("username=\"u\" password=\"hunter2\""), F::NoEnd);
        assert_eq!(plain("password=\"hunter2\" x hunter2;"), F::NotAnOption { after: "password".into() });
        assert_eq!(plain("user=\"hunter2\";"), F::UnknownOption { option: "user".into() });
        assert_eq!(plain("password=\"hunter2\" password=\"x\";"), F::Twice { option: "password".into() });
        assert_eq!(plain("password=\"x\"; hunter2"), F::BehindTheEnd);
        assert_eq!(plain(&"x".repeat(BYTES_MAX)), F::TooLong { bytes: BYTES_MAX + PLAIN.len() + 10 });
    }
}
