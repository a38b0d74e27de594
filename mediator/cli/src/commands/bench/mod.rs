//! `turnstile bench`: what mediation costs on this machine, each figure beside a baseline taken in the
//! same run.

mod control;
mod core;
pub(super) mod cuda;
mod process;
mod trap;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::table::{count, say, say_json, table};

/// Measure what mediation costs on this machine
///
/// Every figure stands beside a baseline measured in the same run, and beside the project's budget
/// where it has one. What cannot run here is listed as skipped, with the reason. Close other programs
/// for figures that mean something.
#[derive(Args)]
pub(super) struct Bench {
    /// What to measure: the mediator on this machine's processors, or an NVIDIA GPU through it and without it
    #[arg(long, value_enum, default_value = "emulated")]
    backend: Backend,
    /// Only groups whose name contains this: command, trap, process, control
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// A tenth of the work: rougher figures
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    Emulated,
    Cuda,
}

/// One measured figure.
#[derive(Debug, Serialize)]
struct Figure {
    group: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    /// What it is compared with.
    baseline: Option<Baseline>,
    budget: Option<Budget>,
}

#[derive(Debug, Serialize)]
struct Baseline {
    what: &'static str,
    value: f64,
}

/// What the project promises.
#[derive(Debug, Serialize)]
struct Budget {
    text: String,
    within: bool,
}

impl Figure {
    fn new(group: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure { group, what: what.into(), value, unit, baseline: None, budget: None }
    }
    fn against(mut self, what: &'static str, value: f64) -> Figure {
        self.baseline = Some(Baseline { what, value });
        self
    }
    /// The budget is an upper bound.
    fn at_most(mut self, limit: f64) -> Figure {
        let text = format!("<= {} {}", number(limit), self.unit);
        self.budget = Some(Budget { text, within: self.value <= limit });
        self
    }
    /// The budget is a lower bound.
    fn at_least(mut self, limit: f64) -> Figure {
        let text = format!(">= {} {}", number(limit), self.unit);
        self.budget = Some(Budget { text, within: self.value >= limit });
        self
    }
    /// The budget is a multiple of the baseline.
    fn at_most_times(mut self, limit: f64) -> Figure {
        if let Some(baseline) = &self.baseline {
            let within = self.value <= limit * baseline.value;
            self.budget = Some(Budget { text: format!("<= {limit} x baseline"), within });
        }
        self
    }
}

/// What could not be measured.
#[derive(Debug, Serialize)]
struct Skipped {
    group: &'static str,
    why: String,
}

/// A group of figures and how it is measured; the number is how much work to do, 10 or 1.
type Group = (&'static str, fn(u32) -> Result<Vec<Figure>, String>);

const GROUPS: [Group; 4] = [
    ("command", core::measure),
    ("trap", trap::measure),
    ("process", process::measure),
    ("control", control::measure),
];

fn number(value: f64) -> String {
    match value {
        v if v >= 1000.0 => count(v.round() as u64),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let wanted = |name: &str| self.only.as_deref().is_none_or(|only| name.contains(only));
        let all = match self.backend {
            Backend::Emulated => &GROUPS[..],
            Backend::Cuda => &[("cuda", cuda::measure as fn(u32) -> _)],
        };
        let groups: Vec<Group> = all.iter().copied().filter(|(name, _)| wanted(name)).collect();
        if groups.is_empty() {
            let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
            return Err(Failure::input(
                "no group of measurements has that in its name",
                format!("there are: {}", names.join(", ")),
            ));
        }
        let (mut figures, mut skipped) = (Vec::new(), Vec::new());
        for (group, measure) in groups {
            eprintln!("measuring: {group}");
            match measure(if self.quick { 1 } else { 10 }) {
                Ok(measured) => figures.extend(measured),
                Err(why) => skipped.push(Skipped { group, why }),
            }
        }
        if self.json {
            return say_json(&serde_json::json!({"figures": figures, "skipped": skipped}));
        }
        let mut table = table(&[
            "group",
            "what",
            "measured#",
            "unit",
            "baseline#",
            "of",
            "ratio#",
            "budget",
            "",
        ]);
        for figure in &figures {
            let baseline = figure.baseline.as_ref();
            table.add_row([
                figure.group.to_owned(),
                figure.what.clone(),
                number(figure.value),
                figure.unit.to_owned(),
                baseline.map_or(String::new(), |b| number(b.value)),
                baseline.map_or("", |b| b.what).to_owned(),
                baseline.map_or(String::new(), |b| number(figure.value / b.value)),
                figure.budget.as_ref().map_or(String::new(), |b| b.text.clone()),
                match figure.budget.as_ref().map(|b| b.within) {
                    Some(true) => "ok",
                    Some(false) => "OVER",
                    None => "",
                }
                .to_owned(),
            ]);
        }
        say(table)?;
        for skip in &skipped {
            say(format!("skipped: {}: {}", skip.group, skip.why))?;
        }
        Ok(())
    }
}
