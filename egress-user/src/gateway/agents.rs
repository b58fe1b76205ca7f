//! Which agents may connect, for whom they may speak, and how much of the gateway an agent or a
//! workload may take.
//!
//! Agents that share an identity share its limits. A workload is told from others by the agent that
//! speaks for it and by its pod, or by its cgroup where no pod is known. All limits are those of one
//! gateway.

mod usage;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::hello::ServerName;
use crate::intake::Allowance;
use crate::policy::Workloads;
use crate::refusal::{Class, Refusal};
use crate::tunnel::identity::{IdPattern, SpiffeId};
use crate::workload::Workload;

use usage::{Excess, Usage};

/// Workloads whose use is kept at once. One takes some hundred bytes, and eight more for each name
/// of its last minute.
const MAX_WORKLOADS: usize = 64 * 1024;

/// How many of them may be those of one agent: it says itself who they are, and could make them up.
const MAX_OF_AGENT: usize = MAX_WORKLOADS / 4;

/// An agent may have this part of what large hellos take.
const PART_OF_HELLOS: usize = 4;

/// How often what is over is forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// How often that is done for want of room: a walk through a full table takes milliseconds, and
/// whoever fills it would have one for each connection.
const SWEEP_IN_NEED: Duration = Duration::from_secs(1);

/// Agents that may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentRule {
    /// Who they are.
    pub id: IdPattern,
    /// For whom they may speak; for everybody when absent.
    pub workloads: Option<Workloads>,
}

impl AgentRule {
    /// Lets these agents speak for everybody.
    pub fn for_everybody(id: IdPattern) -> AgentRule {
        AgentRule {
            id,
            workloads: None,
        }
    }
}

impl fmt::Display for AgentRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.workloads {
            None => self.id.fmt(f),
            Some(workloads) => write!(f, "{} for {workloads}", self.id),
        }
    }
}

/// How much one agent or one workload may take; without a bound where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quota {
    /// Connections that are open at once.
    pub connections: Option<u32>,
    /// New connections a second, after a burst of as many.
    pub rate: Option<u32>,
    /// Different server names in a minute.
    pub names: Option<u32>,
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = [
            (self.connections, "connections"),
            (self.rate, "a second"),
            (self.names, "names a minute"),
        ];
        let bounds: Vec<String> = bounds
            .iter()
            .filter_map(|(bound, of)| bound.map(|bound| format!("{bound} {of}")))
            .collect();
        match bounds.is_empty() {
            true => f.write_str("no bound"),
            false => f.write_str(&bounds.join(", ")),
        }
    }
}

/// How much each agent and each workload may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quotas {
    /// Tunnels of one agent at once, whether they carry something or not; never more than a quarter
    /// of the gateway's.
    pub tunnels: u32,
    /// One agent, with all its workloads.
    pub agent: Quota,
    /// One workload.
    pub workload: Quota,
}

impl Quotas {
    /// Leaves room for other agents where the gateway has room for few tunnels.
    pub(super) fn within(self, tunnels: usize) -> Quotas {
        let most = u32::try_from(tunnels.div_ceil(4)).unwrap_or(u32::MAX);
        Quotas {
            tunnels: self.tunnels.min(most),
            ..self
        }
    }
}

impl Default for Quotas {
    /// A quarter of the gateway's tunnels for one agent, or for one workload, so that none can take
    /// them all. Ten names a second that were not asked for within the minute are more than programs
    /// need that mean something by them; it is wildcards that let somebody make names up.
    fn default() -> Quotas {
        Quotas {
            tunnels: 4096,
            agent: Quota::default(),
            workload: Quota {
                connections: Some(4096),
                rate: None,
                names: Some(600),
            },
        }
    }
}

/// The rules, and what is in use.
pub(super) struct Agents {
    rules: Vec<AgentRule>,
    quotas: Quotas,
    /// Names are kept as their hash under keys that nobody outside can guess.
    hasher: RandomState,
    /// What large hellos may take.
    hellos: Arc<Allowance>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    agents: HashMap<SpiffeId, AgentUse>,
    workloads: HashMap<WorkloadKey, Usage>,
    /// When what is over was last looked for.
    swept: Option<Instant>,
}

impl Tables {
    /// Forgets what is over: now and then, and sooner when there is no room.
    fn sweep(&mut self, now: Instant, in_need: bool) {
        let after = if in_need { SWEEP_IN_NEED } else { SWEEP };
        let due = self
            .swept
            .is_none_or(|swept| now.saturating_duration_since(swept) >= after);
        if !due {
            return;
        }
        self.swept = Some(now);
        let agents = &mut self.agents;
        self.workloads.retain(|key, usage| {
            let over = usage.is_over(now);
            if over && let Some(agent) = agents.get_mut(&key.agent) {
                agent.workloads = agent.workloads.saturating_sub(1);
            }
            !over
        });
        self.agents.retain(|_, agent| !agent.is_over(now));
    }

    /// Makes sure that the workload has a place in the table.
    fn place(&mut self, key: &WorkloadKey, now: Instant) -> Result<(), Refusal> {
        if self.workloads.contains_key(key) {
            self.sweep(now, false);
        } else {
            let in_need = self.has_room(&key.agent).is_err();
            self.sweep(now, in_need);
        }
        // What is there may have been swept.
        if !self.workloads.contains_key(key) {
            self.has_room(&key.agent)?;
            self.workloads.insert(key.clone(), Usage::default());
            let agent = self.agents.entry(key.agent.clone()).or_default();
            agent.workloads += 1;
        }
        Ok(())
    }

    /// Whether there is room for one more workload of this agent.
    fn has_room(&self, agent: &SpiffeId) -> Result<(), Refusal> {
        let of_agent = self.agents.get(agent).map_or(0, |agent| agent.workloads);
        if of_agent >= MAX_OF_AGENT {
            return Err(Refusal::new(Class::Busy, "agent_workload_limit"));
        }
        if self.workloads.len() >= MAX_WORKLOADS {
            return Err(Refusal::new(Class::Busy, "workload_table_full"));
        }
        Ok(())
    }
}

#[derive(Default)]
struct AgentUse {
    tunnels: u32,
    /// Its entries in the table of workloads.
    workloads: usize,
    usage: Usage,
    /// What large hellos in its tunnels may take, once it had one.
    hellos: Option<Arc<Allowance>>,
}

impl AgentUse {
    fn is_over(&self, now: Instant) -> bool {
        self.tunnels == 0 && self.workloads == 0 && self.usage.is_over(now)
    }
}

/// What tells one workload from another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct WorkloadKey {
    agent: SpiffeId,
    namespace: Option<String>,
    name: Option<String>,
}

impl WorkloadKey {
    fn of(agent: &SpiffeId, workload: &Workload) -> WorkloadKey {
        let name = workload.pod.as_ref().or(workload.cgroup.as_ref());
        WorkloadKey {
            agent: agent.clone(),
            namespace: workload.namespace.clone(),
            name: name.cloned(),
        }
    }
}

impl Agents {
    pub(super) fn new(rules: Vec<AgentRule>, quotas: Quotas) -> Arc<Agents> {
        Arc::new(Agents {
            rules,
            quotas,
            hasher: RandomState::new(),
            hellos: Allowance::of_process(),
            tables: Mutex::default(),
        })
    }

    /// Lets an agent have one more tunnel, until the result is dropped.
    pub(super) fn admit(self: &Arc<Self>, agent: &SpiffeId) -> Result<TunnelPass, Refusal> {
        if !self.rules.iter().any(|rule| rule.id.matches(agent)) {
            return Err(denied("agent_not_allowed"));
        }
        let mut tables = self.lock();
        let entry = tables.agents.entry(agent.clone()).or_default();
        if entry.tunnels >= self.quotas.tunnels {
            return Err(Refusal::new(Class::Busy, "agent_tunnel_limit"));
        }
        entry.tunnels += 1;
        let hellos = &mut entry.hellos;
        let hellos = hellos.get_or_insert_with(|| self.hellos.part(PART_OF_HELLOS));
        Ok(TunnelPass {
            hellos: hellos.clone(),
            agents: self.clone(),
            agent: agent.clone(),
        })
    }

    fn may_speak_for(&self, agent: &SpiffeId, workload: &Workload) -> bool {
        let mut rules = self.rules.iter().filter(|rule| rule.id.matches(agent));
        rules.any(|rule| {
            let workloads = rule.workloads.as_ref();
            workloads.is_none_or(|workloads| workloads.include(workload))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tunnel of an agent that may connect.
pub(super) struct TunnelPass {
    hellos: Arc<Allowance>,
    agents: Arc<Agents>,
    agent: SpiffeId,
}

impl TunnelPass {
    /// Lets the agent have one more connection for this workload, until the result is dropped.
    pub(super) fn stream(&self, workload: &Workload) -> Result<StreamPass<'_>, Refusal> {
        if !self.agents.may_speak_for(&self.agent, workload) {
            return Err(denied("may_not_speak_for"));
        }
        let key = WorkloadKey::of(&self.agent, workload);
        let (quotas, now) = (&self.agents.quotas, Instant::now());
        let mut tables = self.agents.lock();
        let tables = &mut *tables;
        tables.place(&key, now)?;
        let agent = &mut tables.agents.entry(self.agent.clone()).or_default().usage;
        let workload = tables.workloads.entry(key.clone()).or_default();
        agent.check(&quotas.agent, now).map_err(of_agent)?;
        workload.check(&quotas.workload, now).map_err(of_workload)?;
        agent.begin(&quotas.agent, now);
        workload.begin(&quotas.workload, now);
        Ok(StreamPass { tunnel: self, key })
    }
}

impl Drop for TunnelPass {
    fn drop(&mut self) {
        let mut tables = self.agents.lock();
        if let Some(agent) = tables.agents.get_mut(&self.agent) {
            agent.tunnels = agent.tunnels.saturating_sub(1);
            if agent.is_over(Instant::now()) {
                tables.agents.remove(&self.agent);
            }
        }
    }
}

/// A connection of a workload that the agent may speak for.
pub(super) struct StreamPass<'a> {
    tunnel: &'a TunnelPass,
    key: WorkloadKey,
}

impl StreamPass<'_> {
    /// What the agent's large hellos may take.
    pub(super) fn hellos(&self) -> &Arc<Allowance> {
        &self.tunnel.hellos
    }

    /// Counts the name that the connection is for, before anybody is asked about it.
    pub(super) fn name(&self, name: &ServerName) -> Result<(), Refusal> {
        let agents = &self.tunnel.agents;
        let (quotas, now) = (&agents.quotas, Instant::now());
        let hash = agents.hasher.hash_one(name.as_str());
        let mut tables = agents.lock();
        // The workload's first: what it is refused is not taken from the others of its agent.
        if let Some(workload) = tables.workloads.get_mut(&self.key) {
            let named = workload.name(&quotas.workload, hash, now);
            named.map_err(of_workload)?;
        }
        if let Some(agent) = tables.agents.get_mut(&self.tunnel.agent) {
            let named = agent.usage.name(&quotas.agent, hash, now);
            named.map_err(of_agent)?;
        }
        Ok(())
    }
}

impl Drop for StreamPass<'_> {
    fn drop(&mut self) {
        let mut tables = self.tunnel.agents.lock();
        let mut forgotten = false;
        if let Some(workload) = tables.workloads.get_mut(&self.key) {
            workload.end();
            forgotten = workload.is_over(Instant::now());
        }
        if forgotten {
            tables.workloads.remove(&self.key);
        }
        if let Some(agent) = tables.agents.get_mut(&self.tunnel.agent) {
            agent.usage.end();
            agent.workloads = agent.workloads.saturating_sub(usize::from(forgotten));
        }
    }
}

/// Decided, and the same at every gateway: no other one is to be asked.
fn denied(reason: &'static str) -> Refusal {
    Refusal::new(Class::Denied, reason)
}

fn of_agent(excess: Excess) -> Refusal {
    denied(match excess {
        Excess::Connections => "agent_connection_limit",
        Excess::Rate => "agent_rate_limit",
        Excess::Names => "agent_name_limit",
    })
}

fn of_workload(excess: Excess) -> Refusal {
    denied(match excess {
        Excess::Connections => "workload_connection_limit",
        Excess::Rate => "workload_rate_limit",
        Excess::Names => "workload_name_limit",
    })
}

#[cfg(test)]
mod tests;
