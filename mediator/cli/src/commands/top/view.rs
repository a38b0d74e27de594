//! What `top` knows: two looks at every tenant, and what lies between them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

use crate::commands::operator::state_word;
use crate::control::Tenant;

/// A tenant's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) state: String,
    /// Part of the time the GPU worked for it, in percent.
    pub(super) gpu_percent: f64,
    pub(super) memory: u64,
    pub(super) memory_limit: u64,
    pub(super) commands_per_second: f64,
    pub(super) denied_per_second: f64,
    pub(super) denied: u64,
    pub(super) failed: u64,
    pub(super) queued: u64,
    pub(super) in_flight: u32,
    pub(super) p50_ns: Option<u64>,
    pub(super) p99_ns: Option<u64>,
    paused: bool,
    revoked: bool,
}

/// What rows are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    Gpu,
    Commands,
    Memory,
    Denied,
}

impl Order {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Order::Name => "name",
            Order::Gpu => "GPU",
            Order::Commands => "commands",
            Order::Memory => "memory",
            Order::Denied => "denials",
        }
    }

    const fn next(self) -> Order {
        match self {
            Order::Name => Order::Gpu,
            Order::Gpu => Order::Commands,
            Order::Commands => Order::Memory,
            Order::Memory => Order::Denied,
            Order::Denied => Order::Name,
        }
    }
}

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    Cancel,
    Letter(char),
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    Quit,
    /// The operator confirmed it.
    Order {
        tenant: String,
        order: &'static str,
    },
}

/// What is shown.
pub(super) struct View {
    pub(super) device: String,
    pub(super) rows: Vec<Row>,
    pub(super) order: Order,
    /// Name of the chosen tenant: rows may move under it.
    chosen: Option<String>,
    /// An order that waits for its confirmation.
    pub(super) asking: Option<(String, &'static str)>,
    pub(super) message: String,
    before: HashMap<String, Tenant>,
    looked: Option<Instant>,
}

impl View {
    pub(super) fn new(device: String) -> View {
        View {
            device,
            rows: Vec::new(),
            order: Order::Name,
            chosen: None,
            asking: None,
            message: String::new(),
            before: HashMap::new(),
            looked: None,
        }
    }

    /// Takes a new look. Rates are over the time since the one before.
    pub(super) fn update(&mut self, tenants: Vec<Tenant>, now: Instant) {
        let seconds = self.looked.map(|looked| (now - looked).as_secs_f64()).filter(|s| *s > 0.0);
        let rate = |now: u64, before: u64| {
            seconds.map_or(0.0, |seconds| now.saturating_sub(before) as f64 / seconds)
        };
        let row = |t: &Tenant| {
            let before = self.before.get(&t.name).unwrap_or(t);
            let memory = t.resources.get("buffer_bytes").copied().unwrap_or_default();
            Row {
                name: t.name.clone(),
                state: state_word(t),
                gpu_percent: rate(t.gpu_ns, before.gpu_ns) / 1e7,
                memory: memory.used,
                memory_limit: memory.limit,
                commands_per_second: rate(t.commands, before.commands),
                denied_per_second: rate(t.denied, before.denied),
                denied: t.denied,
                failed: t.failed,
                queued: t.queued,
                in_flight: t.in_flight,
                p50_ns: t.latency.map(|l| l.p50_ns),
                p99_ns: t.latency.map(|l| l.p99_ns),
                paused: t.paused,
                revoked: t.revoked,
            }
        };
        self.rows = tenants.iter().map(row).collect();
        self.before = tenants.into_iter().map(|t| (t.name.clone(), t)).collect();
        self.looked = Some(now);
        self.sort();
    }

    fn sort(&mut self) {
        // Whole numbers of the rates: rows that hardly differ do not change places all the time.
        let whole = |rate: f64| Reverse(rate as u64);
        match self.order {
            Order::Name => self.rows.sort_by(|a, b| a.name.cmp(&b.name)),
            Order::Gpu => self.rows.sort_by_key(|r| (whole(r.gpu_percent), r.name.clone())),
            Order::Commands => {
                self.rows.sort_by_key(|r| (whole(r.commands_per_second), r.name.clone()));
            }
            Order::Memory => self.rows.sort_by_key(|r| (Reverse(r.memory), r.name.clone())),
            Order::Denied => self.rows.sort_by_key(|r| (Reverse(r.denied), r.name.clone())),
        }
    }

    /// Place of the chosen row.
    pub(super) fn at(&self) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        self.rows.iter().position(|row| row.name == *chosen)
    }

    pub(super) fn note(&mut self, message: String) {
        self.message = message;
    }

    pub(super) fn key(&mut self, key: Key) -> Action {
        if let Some((tenant, order)) = self.asking.take() {
            // Anything but yes is no.
            return match key {
                Key::Letter('y') => Action::Order { tenant, order },
                _ => Action::None,
            };
        }
        self.message.clear();
        match key {
            Key::Letter('q') | Key::Cancel => return Action::Quit,
            Key::Letter('s') => {
                self.order = self.order.next();
                self.sort();
            }
            Key::Up => self.choose(|at| at.saturating_sub(1), usize::MAX),
            Key::Down => self.choose(|at| at + 1, 0),
            Key::Letter('p') => self.ask(|row| match row.paused || row.revoked {
                true => "resume",
                false => "pause",
            }),
            Key::Letter('r') => self.ask(|_| "revoke"),
            Key::Letter('k') => self.ask(|_| "kill"),
            Key::Letter(_) => {}
        }
        Action::None
    }

    fn choose(&mut self, step: impl Fn(usize) -> usize, first: usize) {
        let last = self.rows.len().saturating_sub(1);
        let at = self.at().map_or(first, step).min(last);
        self.chosen = self.rows.get(at).map(|row| row.name.clone());
    }

    fn ask(&mut self, order: impl Fn(&Row) -> &'static str) {
        match self.at().and_then(|at| self.rows.get(at)) {
            Some(row) => self.asking = Some((row.name.clone(), order(row))),
            None => self.message = "choose a tenant with the arrows first".into(),
        }
    }
}
