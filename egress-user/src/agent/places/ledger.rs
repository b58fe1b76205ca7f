//! Who holds how many places, and who may have another.
//!
//! A scope may come to hold as many as are left free then, and a workload as many as are left to
//! its scope then; a sixteenth of all is kept back. So one alone comes to hold about half of what
//! there is, two a third each, three a quarter, and there is something left in any case. Who holds
//! none has one beyond that: a workload as long as half of what is kept back is free, a scope as
//! long as anything is.

use std::collections::HashMap;
use std::sync::Arc;

use crate::agent::Limits;
use crate::intake::Allowance;

/// This part of all places is kept back.
const KEPT_BACK: usize = 16;

/// One scope among those of a ledger.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ScopeId(u64);

pub(super) struct Ledger {
    limits: Limits,
    all: Count,
    scopes: HashMap<ScopeId, Scope>,
    next: u64,
}

#[derive(Clone, Copy, Default)]
struct Count {
    taken: usize,
    /// Those of which it is known whose they are. Only these decide what others may have: many may
    /// have come at the same moment, of which most will be refused.
    known: usize,
}

#[derive(Default)]
struct Scope {
    count: Count,
    workloads: HashMap<String, Held>,
}

struct Held {
    connections: usize,
    unheard: usize,
    hellos: Arc<Allowance>,
}

impl Ledger {
    pub(super) fn new(limits: &Limits) -> Ledger {
        Ledger {
            limits: limits.clone(),
            all: Count::default(),
            scopes: HashMap::new(),
            next: 0,
        }
    }

    pub(super) fn new_scope(&mut self) -> ScopeId {
        self.next += 1;
        ScopeId(self.next)
    }

    /// Whether the scope may have another place, whosever of it that will be.
    pub(super) fn has_place(&self, scope: ScopeId) -> bool {
        let free = self.limits.connections.saturating_sub(self.all.taken);
        let taken = self.count(scope).taken;
        match self.limits.shared && taken > 0 {
            true => taken < self.limits.of_scope && free > self.kept_back().div_ceil(2),
            false => free > 0,
        }
    }

    /// Takes a place of the scope, if it may have one.
    pub(super) fn take(&mut self, scope: ScopeId) -> bool {
        let has_place = self.has_place(scope);
        if has_place {
            self.all.taken += 1;
            self.scopes.entry(scope).or_default().count.taken += 1;
        }
        has_place
    }

    /// Counts a place that was taken as one of the workload's, unless that has its part.
    pub(super) fn belongs_to(
        &mut self,
        scope: ScopeId,
        workload: &str,
        hellos: impl FnOnce() -> Arc<Allowance>,
    ) -> Option<Arc<Allowance>> {
        let (left, unheard) = (self.left_to(scope), self.unheard(scope));
        let scope = self.scopes.entry(scope).or_default();
        let held = scope.workloads.entry(workload.to_owned());
        let held = held.or_insert_with(|| Held::nothing(hellos()));
        // One that has none may always have one, so none is left behind that has none.
        if held.connections > 0 && (held.connections >= left || held.unheard >= unheard) {
            return None;
        }
        held.connections += 1;
        held.unheard += 1;
        scope.count.known += 1;
        self.all.known += 1;
        Some(held.hellos.clone())
    }

    /// A ClientHello of the workload has come.
    pub(super) fn heard(&mut self, scope: ScopeId, workload: &str) {
        let scope = self.scopes.get_mut(&scope);
        if let Some(held) = scope.and_then(|scope| scope.workloads.get_mut(workload)) {
            held.unheard = held.unheard.saturating_sub(1);
        }
    }

    /// Gives a place back, of a workload if it was counted.
    pub(super) fn leave(&mut self, id: ScopeId, workload: Option<&str>) {
        let Some(scope) = self.scopes.get_mut(&id) else {
            return;
        };
        for count in [&mut self.all, &mut scope.count] {
            count.taken = count.taken.saturating_sub(1);
            count.known = count.known.saturating_sub(usize::from(workload.is_some()));
        }
        if let Some(workload) = workload
            && let Some(held) = scope.workloads.get_mut(workload)
        {
            held.connections = held.connections.saturating_sub(1);
            if held.connections == 0 {
                scope.workloads.remove(workload);
            }
        }
        if scope.count.taken == 0 {
            self.scopes.remove(&id);
        }
    }

    /// How many more the scope may come to hold: each makes those that are left one fewer too.
    fn left_to(&self, scope: ScopeId) -> usize {
        if !self.limits.shared {
            return usize::MAX;
        }
        let free = self.limits.connections.saturating_sub(self.all.known);
        let gap = free.saturating_sub(self.kept_back() + self.count(scope).known);
        gap.div_ceil(2)
    }

    /// How many of a workload may have sent no ClientHello yet.
    fn unheard(&self, scope: ScopeId) -> usize {
        let Limits {
            connections,
            of_scope,
            ..
        } = self.limits;
        let is_scarce = [(self.all, connections), (self.count(scope), of_scope)]
            .into_iter()
            .any(|(count, room)| room.saturating_sub(count.known) < room / 2);
        match is_scarce {
            true => self.limits.unheard_of_workload,
            false => usize::MAX,
        }
    }

    fn kept_back(&self) -> usize {
        self.limits.connections.div_ceil(KEPT_BACK)
    }

    fn count(&self, scope: ScopeId) -> Count {
        let scope = self.scopes.get(&scope);
        scope.map(|scope| scope.count).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.all.taken == 0 && self.all.known == 0
    }
}

impl Held {
    fn nothing(hellos: Arc<Allowance>) -> Held {
        Held {
            connections: 0,
            unheard: 0,
            hellos,
        }
    }
}
