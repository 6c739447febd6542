//! Orders about links themselves: create, alter, delete, and the file read again.
//!
//! Each is judged as a whole first, over all links, as if it were done; then it is kept, then it is carried out. A
//! daemon that dies between the two finds what was kept at its next start. The same order twice is one change.

use super::serving::{Daemon, Restart};
use crate::admin::answer::{ConfigChangeView, LinkChangeView, LinkConfigView};
use crate::admin::body::LINK_PAUSED;
use crate::admin::{AdminError, ErrorCode, LinkChange, Reply};
use crate::config::{
    Configuration, KeptLink, KeptLinks, Key, LinkConfigError, LinkValue, Settings, ValueSource,
    check_link_name, check_link_value,
};
use crate::control::check::{Line, check_clusters};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use tracing::{error, info, warn};
use twinlog_io::wall_clock_ms;
use twinlog_sync::lifecycle::MirrorState;

/// What changed links mean for what runs.
enum Effect {
    /// Data threads of no link start again.
    Live(Vec<Settings>),
    Restart(Restart),
}

/// A link that is to be created.
struct Creation {
    view: LinkChangeView,
    /// What would be kept of all links.
    kept: KeptLinks,
    effect: Effect,
    changes: Vec<Checked>,
}

/// What the order to create a link comes to.
enum Plan {
    Create(Box<Creation>),
    /// It is there already, just so.
    There(LinkChangeView),
}

fn refused(why: &dyn Display) -> AdminError {
    AdminError::new(ErrorCode::Refused, why)
}

/// A change under the name by which it is kept.
type Checked = (String, Option<String>, &'static Key);

/// The changes, each judged by itself.
fn checked(changes: &[LinkChange]) -> Result<Vec<Checked>, LinkConfigError> {
    let mut seen = BTreeSet::new();
    let each = |change: &LinkChange| {
        let (name, key) = check_link_value(&change.name, change.value.as_deref())?;
        match seen.insert(name.clone()) {
            true => Ok((name, change.value.clone(), key)),
            false => Err(LinkConfigError::Twice { name }),
        }
    };
    changes.iter().map(each).collect()
}

fn value_named<'a>(values: &'a [LinkValue], key: &Key) -> Option<&'a str> {
    values.iter().find(|each| each.key == key).and_then(|each| each.value.as_deref())
}

impl Daemon {
    /// What differs for a link between now and what would be.
    fn change_views(&self, kept: &KeptLinks, link: &str, keys: &[&'static Key]) -> Vec<ConfigChangeView> {
        let (now, then) =
            (self.configuration.values(&self.kept, link), self.configuration.values(kept, link));
        let view = |key: &&'static Key| ConfigChangeView {
            name: key.link_name().unwrap_or_default(),
            current: value_named(&now, key).map(str::to_owned),
            new: value_named(&then, key).map(str::to_owned),
            is_reloadable: key.reloadable,
        };
        keys.iter().map(view).collect()
    }

    pub(super) async fn create_link(
        &mut self,
        cluster: Option<String>,
        link: String,
        changes: Vec<LinkChange>,
    ) -> Result<LinkChangeView, AdminError> {
        let Creation { view, kept, effect, changes } = match self.plan_link(cluster, link, &changes, false)? {
            Plan::Create(creation) => *creation,
            Plan::There(view) => return Ok(view),
        };
        let link = &view.link_name;
        let values = changes.into_iter().map(|(name, value, _)| (name, value)).collect();
        self.state.create_link(link, values, wall_clock_ms()).await.map_err(|error| refused(&error))?;
        info!("link {link} is created by an operator's word");
        self.kept = kept;
        self.carry(effect, Vec::new());
        Ok(view)
    }

    /// What the creation of a link comes to; nothing is changed.
    fn plan_link(
        &self,
        cluster: Option<String>,
        link: String,
        changes: &[LinkChange],
        validate_only: bool,
    ) -> Result<Plan, AdminError> {
        check_link_name(&link).map_err(|error| AdminError::new(ErrorCode::Malformed, &error))?;
        if let Some(cluster) = cluster {
            let why = format!(
                "which cluster a link leads to is known when it has answered; write - instead of {cluster}"
            );
            return Err(AdminError::new(ErrorCode::NoSuchCluster, &why));
        }
        let changes = checked(changes).map_err(|error| refused(&error))?;
        let values = changes.iter().filter_map(|(name, value, _)| Some((name.clone(), value.clone()?)));
        let wanted = KeptLink { created: true, values: values.collect() };
        let conflict = |why: String| Err(AdminError::new(ErrorCode::Conflict, &why));
        if self.configuration.has(&link) {
            return conflict(format!("link {link} stands in the configuration file; alter it instead"));
        }
        match self.kept.get(&link).filter(|known| known.created) {
            Some(known) if *known == wanted => {
                let note = Some("it is there already, with exactly this".to_owned());
                let effect = "none".to_owned();
                let there =
                    LinkChangeView { link_name: link, validate_only, effect, note, ..Default::default() };
                return Ok(Plan::There(there));
            }
            Some(_) => {
                return conflict(format!(
                    "link {link} is there already, with other configurations; alter it instead"
                ));
            }
            None => {}
        }
        let mut kept = self.kept.clone();
        kept.insert(link.clone(), wanted);
        let effect = self.effect(&self.configuration, &kept).map_err(|error| refused(&error))?;
        let keys: Vec<&'static Key> = changes.iter().map(|(_, _, key)| *key).collect();
        let view = LinkChangeView {
            changes: self.change_views(&kept, &link, &keys),
            link_name: link,
            validate_only,
            effect: "create".to_owned(),
            note: Some("memory is divided anew: data threads of every link start again".to_owned()),
            checks: Vec::new(),
        };
        Ok(Plan::Create(Box::new(Creation { view, kept, effect, changes })))
    }

    /// A dry run of [`Self::create_link`], and what the clusters say to it. They are asked beside everything else:
    /// one that does not answer holds up this answer only.
    pub(super) fn try_create_link(
        &self,
        cluster: Option<String>,
        link: String,
        changes: &[LinkChange],
        reply: Reply<LinkChangeView>,
    ) {
        let (mut view, kept) = match self.plan_link(cluster, link, changes, true) {
            Ok(Plan::Create(creation)) => (creation.view, creation.kept),
            Ok(Plan::There(view)) => return drop(reply.send(Ok(view))),
            Err(error) => return drop(reply.send(Err(error))),
        };
        let links = self.configuration.links(&kept).unwrap_or_default();
        let settings = links.into_iter().find(|each| each.link.name == view.link_name);
        let others = self.partition_counts().sum();
        tokio::spawn(async move {
            if let Some(settings) = settings {
                view.checks = check_clusters(settings, others).await.iter().map(Line::view).collect();
            }
            // An operator who has gone needs no answer.
            let _ = reply.send(Ok(view));
        });
    }

    pub(super) async fn alter_link(
        &mut self,
        link: &str,
        changes: Vec<LinkChange>,
        validate_only: bool,
    ) -> Result<LinkChangeView, AdminError> {
        let changes = checked(&changes).map_err(|error| refused(&error))?;
        if changes.iter().any(|(name, ..)| name == LINK_PAUSED) {
            let why = format!("{LINK_PAUSED} is an order of its own; send it alone");
            return Err(refused(&why));
        }
        if let Some((_, _, key)) = changes.iter().find(|(_, _, key)| key.is_fixed()) {
            return Err(refused(&LinkConfigError::Fixed { key }));
        }
        let mut kept = self.kept.clone();
        let said = kept.entry(link.to_owned()).or_default();
        for (name, value, _) in &changes {
            match value {
                Some(value) => said.values.insert(name.clone(), value.clone()),
                None => said.values.remove(name),
            };
        }
        let effect = self.effect(&self.configuration, &kept).map_err(|error| refused(&error))?;
        let differences = self.configuration.differences(&self.kept, (&self.configuration, &kept), link);
        let has_halted = self.slots.get(link).is_some_and(|slot| {
            slot.running.as_ref().is_none_or(|running| running.supervisor.halted().is_some())
        });
        let word = match &effect {
            _ if differences.is_empty() && !has_halted => "none",
            Effect::Live(_) => "live",
            Effect::Restart(_) => "restart",
        };
        let keys: Vec<&'static Key> = changes.iter().map(|(_, _, key)| *key).collect();
        let view = LinkChangeView {
            changes: self.change_views(&kept, link, &keys),
            link_name: link.to_owned(),
            validate_only,
            effect: word.to_owned(),
            ..LinkChangeView::default()
        };
        if validate_only {
            return Ok(view);
        }
        if kept.get(link) != self.kept.get(link) {
            let changes = changes.into_iter().map(|(name, value, _)| (name, value)).collect();
            self.state.alter_link(link, changes, wall_clock_ms()).await.map_err(|error| refused(&error))?;
            info!("link {link} is altered by an operator's word");
        }
        self.kept = kept;
        if word != "none" {
            self.carry(effect, Vec::new());
        }
        Ok(view)
    }

    pub(super) async fn delete_link(
        &mut self,
        link: &str,
        force: bool,
        validate_only: bool,
    ) -> Result<LinkChangeView, AdminError> {
        if self.configuration.has(link) {
            let why = format!("link {link} stands in the configuration file; remove it there and reload");
            return Err(refused(&why));
        }
        let failed = |error| AdminError::new(ErrorCode::Internal, &error);
        let mirrors = self.state.mirrors(Some(link)).await.map_err(failed)?;
        let left = mirrors.iter().filter(|row| row.state != MirrorState::Stopped).count();
        if left > 0 && !force {
            let why = format!("link {link} has {left} mirror topics; delete them first, or give force");
            return Err(AdminError::new(ErrorCode::Conflict, &why));
        }
        if !self.state.guest_identities(link).await.map_err(failed)?.is_empty() {
            let why =
                format!("the guest brokers of link {link} are registered; let them leave first: guest leave");
            return Err(AdminError::new(ErrorCode::Conflict, &why));
        }
        let mut kept = self.kept.clone();
        kept.remove(link);
        let effect = self.effect(&self.configuration, &kept).map_err(|error| refused(&error))?;
        let view = LinkChangeView {
            link_name: link.to_owned(),
            validate_only,
            effect: "delete".to_owned(),
            changes: Vec::new(),
            note: Some("its files stay, in the directory of its name".to_owned()),
            checks: Vec::new(),
        };
        if validate_only {
            return Ok(view);
        }
        // The rest of its rows goes when nothing of it runs that could write them anew.
        self.state.forget_created(link, wall_clock_ms()).await.map_err(failed)?;
        info!("link {link} is deleted by an operator's word");
        self.kept = kept;
        self.carry(effect, vec![link.to_owned()]);
        Ok(view)
    }

    pub(super) async fn link_configs(&self, link: &str) -> Result<Vec<LinkConfigView>, AdminError> {
        let row =
            self.state.link(link).await.map_err(|error| AdminError::new(ErrorCode::Internal, &error))?;
        let paused = row.and_then(|row| row.paused);
        let view = |value: LinkValue| {
            let mut view = LinkConfigView {
                link_name: link.to_owned(),
                name: value.key.link_name().unwrap_or_default(),
                value: value.value,
                default: (!value.key.default.is_empty()).then(|| value.key.default.to_owned()),
                source: value.source.name().to_owned(),
                file_value: value.file_value,
                is_default: value.source == ValueSource::Default,
                is_read_only: value.key.is_fixed(),
                is_sensitive: value.key.is_secret(),
                is_reloadable: value.key.reloadable,
            };
            // What an operator said of the whole link counts more than any configuration.
            if let Some(paused) = paused.filter(|_| view.name == LINK_PAUSED) {
                view.file_value = view.value.take().filter(|_| view.source == ValueSource::File.name());
                view.value = Some(paused.to_string());
                view.source = ValueSource::Persisted.name().to_owned();
                view.is_default = false;
            }
            view
        };
        Ok(self.configuration.values(&self.kept, link).into_iter().map(view).collect())
    }

    /// Reads the file again. One that cannot be taken leaves everything as it is.
    pub(super) async fn reload(&mut self) {
        let Some(read) = self.configuration.read_again() else {
            return warn!("told to reload, and there is no configuration file");
        };
        let taken = read.map_err(|error| error.to_string()).and_then(|configuration| {
            let fixed = configuration.daemon_changes(&self.configuration);
            if !fixed.is_empty() {
                return Err(format!("{} cannot change without a restart of the daemon", fixed.join(", ")));
            }
            for link in self.slots.keys() {
                let there = (&configuration, &self.kept);
                let changed = self.configuration.differences(&self.kept, there, link);
                let is_there =
                    configuration.has(link) || self.kept.get(link).is_some_and(|kept| kept.created);
                if let Some(key) = changed.iter().find(|key| key.is_fixed() && is_there) {
                    return Err(format!("link {link}: {}", LinkConfigError::Fixed { key }));
                }
            }
            let effect = self.effect(&configuration, &self.kept).map_err(|error| error.to_string())?;
            Ok((configuration, effect))
        });
        match taken {
            Err(why) => error!("the configuration is not taken, the settings before it go on: {why}"),
            Ok((configuration, effect)) => {
                self.configuration = configuration;
                info!("the configuration was read again");
                self.carry(effect, Vec::new());
            }
        }
    }

    /// What would have to be done. An error: it must not be done.
    fn effect(
        &self,
        configuration: &Configuration,
        kept: &KeptLinks,
    ) -> Result<Effect, crate::config::ConfigError> {
        let links = configuration.links(kept)?;
        let names: BTreeSet<&String> = links.iter().map(|each| &each.link.name).collect();
        if self.slots.keys().collect::<BTreeSet<_>>() != names {
            // Each gets another part of the memory.
            let all = self.slots.keys().chain(names).cloned().collect();
            return Ok(Effect::Restart(Restart { links: all, deleted: Vec::new() }));
        }
        let (mut again, mut live) = (BTreeSet::new(), Vec::new());
        for settings in links {
            let name = &settings.link.name;
            let slot = &self.slots[name];
            let runs = slot.running.as_ref().is_some_and(|running| running.supervisor.halted().is_none());
            let there = (configuration, kept);
            let changed = self.configuration.differences(&self.kept, there, name);
            let fits = |running: &super::serving::Running| running.supervisor.can_retune(&settings);
            match slot.running.as_ref().filter(|_| runs) {
                _ if changed.is_empty() && runs => {}
                Some(running) if changed.iter().all(|key| key.reloadable) && fits(running) => {
                    live.push(settings)
                }
                _ => drop(again.insert(name.clone())),
            }
        }
        match again.is_empty() {
            true => Ok(Effect::Live(live)),
            // Links that restart are started with their newest settings; so are those that would not have to.
            false => {
                again.extend(live.into_iter().map(|settings| settings.link.name));
                Ok(Effect::Restart(Restart { links: again, deleted: Vec::new() }))
            }
        }
    }

    fn carry(&mut self, effect: Effect, deleted: Vec<String>) {
        match effect {
            Effect::Restart(restart) => self.restart = Some(Restart { deleted, ..restart }),
            Effect::Live(links) => {
                for settings in links {
                    let Some(slot) = self.slots.get_mut(&settings.link.name) else { continue };
                    info!("link {} goes on with other settings", settings.link.name);
                    slot.settings = Arc::new(settings);
                    if let Some(running) = &mut slot.running {
                        running.supervisor.retune(Arc::clone(&slot.settings));
                    }
                }
            }
        }
    }
}
