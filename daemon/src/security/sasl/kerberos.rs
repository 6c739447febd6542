//! Tickets for brokers: fetched on threads that may wait, used by threads that may not.
//!
//! ```text
//!   prepare(host)  control core, before a connection: wants the host, waits for its ticket
//!   ticket(host)   any thread: wants the host, takes what is there or says why there is none
//!   keep()         every wanted host whose ticket is missing or grows old, one after the other
//!        \- fetch, on the blocking pool: keytab or the user's cache --> KDC --> a cache of its own --> Ticket
//! ```
//! A ticket is never touched again once others see it: its credential has no keytab, its cache holds all that an
//! exchange needs, the name of its service is final. So whoever uses it neither asks the network nor waits for
//! somebody who does (the library locks a credential while it asks a KDC). Its successor is another one.

use super::kerberos_login::{KerberosFault, KerberosLogin};
use crate::security::SecurityError;
use crate::security::attempts::Attempts;
use libgssapi::context::{ClientCtx, CtxFlags, SecurityContext};
use libgssapi::credential::{Cred, CredUsage};
use libgssapi::error::Error;
use libgssapi::name::Name;
use libgssapi::oid::{GSS_MECH_KRB5, GSS_NT_HOSTBASED_SERVICE, GSS_NT_KRB5_PRINCIPAL, OidSet};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::timeout;
use twinlog_io::{TicketCache, acquire_credential};

pub use super::kerberos_context::KerberosClient;

/// How long one caller waits for a KDC. The library itself may take longer and goes on; its answer is used then.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between a failure and the next attempt at a KDC that refused nobody. Lowered, a dead one is asked all the time.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// A ticket is not used any more so long before its end, or a tenth of its life: the broker's clock is another one.
const MARGIN_MAX: Duration = Duration::from_secs(60);
/// Longest life that is believed, as with bearer tokens: after it the KDC is asked whether we still exist.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A host that nobody asked for so long is not kept ready any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// Hosts that are kept ready. Raised, a hostile list of brokers costs as many requests to the KDC.
const HOSTS_MAX: usize = 4_096;
/// What the library says is shown up to so many characters.
const TOLD_CHARS_MAX: usize = 300;

/// See the file's header.
pub struct Kerberos {
    keeper: Arc<Keeper>,
}

struct Keeper {
    login: KerberosLogin,
    refresh_percent: u32,
    attempts: Attempts,
    hosts: Mutex<BTreeMap<String, Wanted>>,
    /// Held while a KDC is asked, also when nobody waits for it any more: a silent one keeps one thread of the
    /// pool, never all of them.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

struct Wanted {
    asked_at: Instant,
    ticket: Option<Arc<Ticket>>,
    failed: Option<(Instant, SecurityError)>,
}

/// What one broker is shown. See the file's header.
pub struct Ticket {
    /// Before the cache, which its drop ends.
    credential: Cred,
    target: Name,
    user: String,
    refresh_at: Instant,
    ends_at: Instant,
    /// The same by the clock that the library looks at. Where that one alone goes on, as while a machine sleeps, the
    /// library would ask a KDC for another ticket, on whatever thread shows this one.
    ends_by_clock: SystemTime,
    /// A broker did not take it: its key may be a newer one than the ticket is made with.
    refused: AtomicBool,
    _cache: TicketCache,
}

impl Kerberos {
    pub fn new(login: KerberosLogin, refresh_percent: u64) -> Result<Self, SecurityError> {
        let keeper = Keeper {
            login,
            refresh_percent: u32::try_from(refresh_percent.clamp(1, 95)).expect("it was clamped"),
            attempts: Attempts::default(),
            hosts: Mutex::default(),
            fetching: Arc::default(),
        };
        Ok(Self { keeper: Arc::new(keeper) })
    }

    /// The ticket for a host, while it is good. A host that is asked for is kept ready from now on.
    pub fn ticket(&self, host: &str) -> Result<Arc<Ticket>, SecurityError> {
        let (mut hosts, now) = (self.keeper.hosts(), Instant::now());
        let wanted = want(&mut hosts, host, now);
        match (&wanted.ticket, &wanted.failed) {
            (Some(ticket), _) if ticket.is_good(now) => Ok(ticket.clone()),
            (_, Some((until, SecurityError::HeldBack { last, .. }))) => {
                let retry_in = until.saturating_duration_since(now);
                Err(SecurityError::HeldBack { retry_in, last: last.clone() })
            }
            (_, Some((_, error))) => Err(error.clone()),
            _ => Err(SecurityError::Kerberos { why: KerberosFault::NotYet { host: host.to_owned() } }),
        }
    }

    /// Wants a host and waits for its ticket while there is no good one; an old one is the keeper's to renew. A
    /// failure is kept for [`Self::ticket`].
    pub async fn prepare(&self, host: &str) {
        if self.ticket(host).is_err() {
            self.refresh(host).await;
        }
    }

    /// Every wanted host once.
    pub async fn keep(&self) {
        let now = Instant::now();
        let due: Vec<String> = {
            let mut hosts = self.keeper.hosts();
            hosts.retain(|_, wanted| now < wanted.asked_at + FORGOTTEN_AFTER);
            hosts.iter().filter(|(_, wanted)| !wanted.is_settled(now)).map(|(host, _)| host.clone()).collect()
        };
        for host in due {
            self.refresh(&host).await;
        }
    }

    async fn refresh(&self, host: &str) {
        if self.keeper.is_settled(host) {
            return;
        }
        let lock = self.keeper.fetching.clone().lock_owned();
        let Ok(one_at_a_time) = timeout(FETCH_TIMEOUT, lock).await else {
            self.keeper.failed(host, KerberosFault::Silent { after: FETCH_TIMEOUT });
            return;
        };
        if self.keeper.is_settled(host) {
            return;
        }
        let (keeper, owned) = (self.keeper.clone(), host.to_owned());
        let fetch = tokio::task::spawn_blocking(move || {
            let _one_at_a_time = one_at_a_time;
            keeper.fetch(&owned);
        });
        if timeout(FETCH_TIMEOUT, fetch).await.is_err() {
            self.keeper.failed(host, KerberosFault::Silent { after: FETCH_TIMEOUT });
        }
    }
}

/// The entry of a host, made where there is none.
fn want<'a>(hosts: &'a mut BTreeMap<String, Wanted>, host: &str, now: Instant) -> &'a mut Wanted {
    if hosts.len() >= HOSTS_MAX && !hosts.contains_key(host) {
        hosts.clear();
    }
    let new = || Wanted { asked_at: now, ticket: None, failed: None };
    let wanted = hosts.entry(host.to_owned()).or_insert_with(new);
    wanted.asked_at = now;
    wanted
}

impl Wanted {
    /// Whether nothing is to be done now: the ticket is young, or an attempt failed a moment ago.
    fn is_settled(&self, now: Instant) -> bool {
        let is_young =
            self.ticket.as_ref().is_some_and(|ticket| now < ticket.refresh_at && ticket.is_good(now));
        is_young || self.failed.as_ref().is_some_and(|(until, _)| now < *until)
    }
}

impl Keeper {
    fn hosts(&self) -> MutexGuard<'_, BTreeMap<String, Wanted>> {
        self.hosts.lock().expect("nothing panics while it holds the lock")
    }

    fn is_settled(&self, host: &str) -> bool {
        self.hosts().get(host).is_none_or(|wanted| wanted.is_settled(Instant::now()))
    }

    fn failed(&self, host: &str, why: KerberosFault) {
        self.remember(host, Err((RETRY_PAUSE, SecurityError::Kerberos { why })));
    }

    /// Data threads wait for the lock: nothing is written and no cache is ended while it is held.
    fn remember(&self, host: &str, outcome: Result<Ticket, (Duration, SecurityError)>) {
        let outcome = match outcome {
            Ok(ticket) => Ok(Arc::new(ticket)),
            Err((pause, error)) => {
                tracing::warn!("no new ticket for {}/{host}: {error}", self.login.service);
                Err((Instant::now() + pause, error))
            }
        };
        let mut hosts = self.hosts();
        // Forgotten meanwhile: whoever wants it again asks again.
        let Some(wanted) = hosts.get_mut(host) else { return };
        let (replaced, failed) = match outcome {
            Ok(ticket) => (wanted.ticket.replace(ticket), None),
            Err(failed) => (None, Some(failed)),
        };
        wanted.failed = failed;
        drop(hosts);
        drop(replaced);
    }

    /// Asks the KDC, however long that takes, unless we are held back.
    fn fetch(&self, host: &str) {
        let outcome = self.ask(host).and_then(|()| {
            self.ticket(host).map_err(|why| {
                let is_refusal = why.is_refusal();
                let error = SecurityError::Kerberos { why };
                if !is_refusal {
                    return (RETRY_PAUSE, error);
                }
                self.attempts.refused(host, &error, Instant::now());
                // Told from now on with the pause that there is until the next attempt.
                self.ask(host).err().unwrap_or((RETRY_PAUSE, error))
            })
        });
        if outcome.is_ok() {
            self.attempts.believed(host);
        }
        self.remember(host, outcome);
    }

    /// Whether an attempt may be made now; for how long not, and why.
    fn ask(&self, host: &str) -> Result<(), (Duration, SecurityError)> {
        self.attempts.ask(host, Instant::now()).map_err(|held| match held {
            SecurityError::HeldBack { retry_in, .. } => (retry_in, held),
            other => (RETRY_PAUSE, other),
        })
    }

    fn ticket(&self, host: &str) -> Result<Ticket, KerberosFault> {
        if let Some(path) = &self.login.keytab {
            // The library would say that there is no key, whatever the reason.
            let unreadable =
                |error: std::io::Error| KerberosFault::Keytab { path: path.clone(), error: error.kind() };
            File::open(path).map_err(unreadable)?;
        }
        let cache = TicketCache::new();
        let fault = |error: Error| self.fault(host, &error);
        let service = format!("{}@{host}", self.login.service);
        // Its final form, which may take a look-up of the host's name: done here, once.
        let target = Name::new(service.as_bytes(), Some(GSS_NT_HOSTBASED_SERVICE)).map_err(fault)?;
        let target = target.canonicalize(Some(GSS_MECH_KRB5)).map_err(fault)?;
        let life = self.fill(&cache, &target, host)?;
        let credential = acquire_credential(None, None, &cache).map_err(fault)?;
        let user = credential.name().and_then(|name| name.display_name()).map_err(fault)?;
        let user = String::from_utf8_lossy(&user).into_owned();
        let (now, life) = (Instant::now(), life.min(LIFE_MAX));
        let used = life.saturating_sub(MARGIN_MAX.min(life / 10));
        let (ends_at, ends_by_clock) = (now + used, SystemTime::now() + used);
        let refresh_at = (now + life / 100 * self.refresh_percent).min(ends_at);
        let refused = AtomicBool::new(false);
        Ok(Ticket { credential, target, user, refresh_at, ends_at, ends_by_clock, refused, _cache: cache })
    }

    /// Puts a ticket for the service into the cache; its life.
    fn fill(&self, cache: &TicketCache, target: &Name, host: &str) -> Result<Duration, KerberosFault> {
        let fault = |error: Error| self.fault(host, &error);
        let of_user = || {
            let credential = self.copy_of_users(cache)?;
            life_of(credential, target).map_err(fault)
        };
        if self.login.use_ticket_cache {
            let filled = of_user();
            if filled.is_ok() || self.login.keytab.is_none() {
                return filled;
            }
        }
        let keytab = self.login.keytab.as_deref().expect("there is a keytab or the cache is used");
        let credential =
            acquire_credential(self.login.principal.as_deref(), Some(keytab), cache).map_err(fault)?;
        life_of(credential, target).map_err(fault)
    }

    /// What lies in the cache of this system's user, copied: that cache is only read.
    fn copy_of_users(&self, cache: &TicketCache) -> Result<Cred, KerberosFault> {
        let no_ticket = |error: Error| KerberosFault::NoTicket { told: told(&error) };
        let principal = self.login.principal.as_deref();
        let name = principal.map(|principal| Name::new(principal.as_bytes(), Some(GSS_NT_KRB5_PRINCIPAL)));
        let name = name.transpose().map_err(no_ticket)?;
        let mut mechanisms = OidSet::new();
        mechanisms.add(GSS_MECH_KRB5).map_err(no_ticket)?;
        let credential = Cred::acquire(name.as_ref(), None, CredUsage::Initiate, Some(&mechanisms));
        let credential = credential.map_err(no_ticket)?;
        let stored =
            credential.store_into(cache.name(), true, false, CredUsage::Initiate, Some(GSS_MECH_KRB5));
        stored.map_err(no_ticket)?;
        acquire_credential(None, None, cache).map_err(no_ticket)
    }

    /// What an error of the library means here.
    fn fault(&self, host: &str, error: &Error) -> KerberosFault {
        let told = told(error);
        let principal = || self.login.principal.clone().unwrap_or_else(|| "this user".to_owned());
        // Kerberos' numbers are negative; the library hands them over without their sign.
        match error.minor.cast_signed() {
            code::CLIENT_UNKNOWN => KerberosFault::UnknownPrincipal { principal: principal() },
            code::SERVER_UNKNOWN => {
                KerberosFault::UnknownService { service: self.login.service.clone(), host: host.to_owned() }
            }
            code::PREAUTH_FAILED | code::BAD_INTEGRITY => KerberosFault::WrongKey { principal: principal() },
            code::CLIENT_REVOKED | code::KEY_EXPIRED | code::CLIENT_EXPIRED => {
                KerberosFault::Ended { principal: principal(), told }
            }
            code::SKEW | code::REPLY_SKEW => KerberosFault::Clock { told },
            code::KDC_UNREACHABLE | code::REALM_UNKNOWN | code::REALM_UNRESOLVED | code::NO_DEFAULT_REALM => {
                KerberosFault::NoServer { told }
            }
            // Without a key the library looks for a ticket, and finds our cache empty.
            code::NO_KEY | code::NO_CACHE_FILE => match &self.login.keytab {
                Some(path) => KerberosFault::NoKey { path: path.clone(), principal: principal() },
                None => KerberosFault::NoTicket { told },
            },
            code::TICKET_EXPIRED if self.login.keytab.is_none() => KerberosFault::NoTicket { told },
            _ => KerberosFault::Library { told },
        }
    }
}

/// Numbers of the library's `krb5.h`.
mod code {
    pub const CLIENT_EXPIRED: i32 = -1_765_328_383;
    pub const CLIENT_UNKNOWN: i32 = -1_765_328_378;
    pub const SERVER_UNKNOWN: i32 = -1_765_328_377;
    pub const CLIENT_REVOKED: i32 = -1_765_328_366;
    pub const KEY_EXPIRED: i32 = -1_765_328_361;
    pub const PREAUTH_FAILED: i32 = -1_765_328_360;
    pub const BAD_INTEGRITY: i32 = -1_765_328_353;
    pub const TICKET_EXPIRED: i32 = -1_765_328_352;
    pub const SKEW: i32 = -1_765_328_347;
    pub const REPLY_SKEW: i32 = -1_765_328_236;
    pub const REALM_UNKNOWN: i32 = -1_765_328_230;
    pub const KDC_UNREACHABLE: i32 = -1_765_328_228;
    pub const NO_KEY: i32 = -1_765_328_203;
    pub const NO_CACHE_FILE: i32 = -1_765_328_189;
    pub const REALM_UNRESOLVED: i32 = -1_765_328_164;
    pub const NO_DEFAULT_REALM: i32 = -1_765_328_160;
}

/// Makes a context that needs no answer, which puts the ticket into the credential's cache; the ticket's life.
fn life_of(credential: Cred, target: &Name) -> Result<Duration, Error> {
    let target = target.duplicate()?;
    let mut context =
        ClientCtx::new(Some(credential), target, CtxFlags::GSS_C_INTEG_FLAG, Some(GSS_MECH_KRB5));
    context.step(None, None)?;
    context.lifetime()
}

/// The library's words: on the thread that failed, which alone knows them whole.
pub fn told(error: &Error) -> String {
    error.to_string().chars().filter(|letter| !letter.is_control()).take(TOLD_CHARS_MAX).collect()
}

impl Ticket {
    /// As whom; for messages.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// A broker did not take it, or the library could not show it: the next one is fetched.
    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    fn is_good(&self, now: Instant) -> bool {
        let has_ended = now >= self.ends_at || SystemTime::now() >= self.ends_by_clock;
        !has_ended && !self.refused.load(Ordering::Relaxed)
    }

    pub fn credential(&self) -> Cred {
        self.credential.clone()
    }

    pub fn target(&self) -> &Name {
        &self.target
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?} for {})", self.user, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kerberos(keytab: &str) -> Kerberos {
        let login = KerberosLogin {
            service: "kafka".to_owned(),
            principal: Some("twin@NOWHERE.TEST".to_owned()),
            keytab: Some(keytab.into()),
            use_ticket_cache: false,
        };
        Kerberos::new(login, 80).unwrap()
    }

    #[test]
    fn a_host_is_wanted_by_whoever_asks_and_the_keeper_tells_why_it_has_no_ticket() {
        let kerberos = kerberos("/nowhere/keytab");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(kerberos.keep());
        let told = kerberos.ticket("127.0.0.1").unwrap_err();
        assert!(
            told.to_string().contains("127.0.0.1 is not there yet") && !told.is_authentication(),
            "{told}"
        );
        runtime.block_on(kerberos.keep());
        let told = kerberos.ticket("127.0.0.1").unwrap_err().to_string();
        assert!(told.contains("cannot read the keytab /nowhere/keytab"), "{told}");
        runtime.block_on(kerberos.prepare("another"));
        let told = kerberos.ticket("another").unwrap_err().to_string();
        assert!(told.contains("cannot read the keytab"), "{told}");
    }

    #[test]
    fn hosts_are_bounded_and_forgotten() {
        let (mut hosts, now) = (BTreeMap::new(), Instant::now());
        for host in 0..=HOSTS_MAX {
            want(&mut hosts, &host.to_string(), now);
        }
        assert_eq!(hosts.len(), 1);
    }

    #[test]
    fn a_refusal_is_told_with_the_pause_before_the_next_attempt() {
        let keeper = kerberos("/nowhere/keytab").keeper;
        let refusal = SecurityError::Kerberos {
            why: KerberosFault::WrongKey { principal: "twin@NOWHERE.TEST".to_owned() },
        };
        keeper.attempts.refused("a", &refusal, Instant::now());
        let (pause, held) = keeper.ask("b").unwrap_err();
        assert!(pause > Duration::from_secs(5) && held.is_authentication(), "{held}");
    }

    #[test]
    fn numbers_of_the_library_have_a_meaning() {
        let keeper = kerberos("/k").keeper;
        let fault = |number: i32| {
            let major = libgssapi::error::MajorFlags::GSS_S_FAILURE;
            keeper.fault("b", &Error { major, minor: number.cast_unsigned() })
        };
        assert!(matches!(fault(code::REPLY_SKEW), KerberosFault::Clock { .. }));
        assert!(matches!(fault(code::KEY_EXPIRED), KerberosFault::Ended { .. }));
        assert!(matches!(fault(code::SERVER_UNKNOWN), KerberosFault::UnknownService { .. }));
        assert!(matches!(fault(1), KerberosFault::Library { .. }));
    }
}
