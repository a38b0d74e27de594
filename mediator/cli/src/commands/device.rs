//! `turnstile device`: the PCI functions of this machine, and giving them to VFIO and back.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use turnstile_abi::regs::{DEVICE_ID, VENDOR_ID};
use turnstile_vfio::inspect::{NO_IOMMU_FIX, has_iommu};
use turnstile_vfio::{
    Address, Allowances, Claim, ClaimError, Host, Inspection, Level, Records, claim, inspect,
};

use super::failure::Failure;
use super::table::{say, say_json, table};

/// Look at PCI functions, claim them through VFIO, give them back
#[derive(Subcommand)]
pub(super) enum Device {
    List(List),
    Check(Check),
    Claim(ClaimCommand),
    Release(Release),
}

/// List the functions that could be given to tenants: GPUs and other controllers, no bridges
///
/// Fails if this machine has no IOMMU: nothing can be given away then.
#[derive(Args)]
pub(super) struct List {
    /// Bridges and host devices too
    #[arg(long)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Say whether a function can be claimed, and what to do if not. Changes nothing
#[derive(Args)]
pub(super) struct Check {
    /// PCI address, such as 0000:65:00.0
    address: Address,
    #[command(flatten)]
    accept: Accept,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Bind a function to vfio-pci until it is released
///
/// What it was bound to is kept in /run/turnstile/claims. `turnstile run` and `serve` claim by
/// themselves and give back at their end; this is for functions that are to stay with VFIO.
#[derive(Args)]
pub(super) struct ClaimCommand {
    /// PCI address, such as 0000:65:00.0
    address: Address,
    #[command(flatten)]
    accept: Accept,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Bind a function back to what it was before it was claimed
#[derive(Args)]
pub(super) struct Release {
    /// PCI address, such as 0000:65:00.0
    address: Address,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Accept {
    /// Accept a danger that the hardware leaves no choice about
    #[arg(long = "allow", value_name = "DANGER")]
    dangers: Vec<Danger>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Danger {
    /// Interrupts that the IOMMU does not remap
    UnsafeInterrupts,
    /// Translation by the device itself
    Ats,
    /// No way to reset the function between tenants
    NoReset,
}

impl Accept {
    fn allowances(&self) -> Allowances {
        let has = |danger| self.dangers.contains(&danger);
        Allowances {
            unsafe_interrupts: has(Danger::UnsafeInterrupts),
            ats: has(Danger::Ats),
            no_reset: has(Danger::NoReset),
        }
    }
}

impl Device {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (host, records) = (Host::here(), Records::default());
        match self {
            Device::List(command) => command.run(&host),
            Device::Check(command) => command.run(&host),
            Device::Claim(command) => command.run(host, &records),
            Device::Release(command) => command.run(&host, &records),
        }
    }
}

fn no_iommu() -> Failure {
    Failure::check(
        "this machine has no IOMMU that Linux uses: no device can be given to a tenant",
        NO_IOMMU_FIX,
    )
}

impl List {
    fn run(&self, host: &Host) -> Result<(), Failure> {
        let shown = |report: &Inspection| self.all || report.class >> 16 != 0x06;
        let reports: Vec<Inspection> = host
            .functions()
            .iter()
            .map(|address| inspect(host, address, &Allowances::default()))
            .filter(shown)
            .collect();
        if self.json {
            say_json(&json!({ "iommu": has_iommu(host), "functions": reports }))?;
        } else if reports.is_empty() {
            say("no PCI function that could be given to a tenant")?;
        } else {
            let mut table = table(&["function", "id", "what", "driver", "group#", "claimable"]);
            for report in &reports {
                let claimable = match report.refusals().next() {
                    None => "yes".to_owned(),
                    Some(finding) => format!("no: {}", finding.check.name()),
                };
                table.add_row([
                    report.address.to_string(),
                    format!("{:04x}:{:04x}", report.id.0, report.id.1),
                    what(report).into(),
                    report.driver.clone().unwrap_or_else(|| "-".into()),
                    report.group.map_or("-".into(), |group| group.to_string()),
                    claimable,
                ]);
            }
            say(table)?;
        }
        if has_iommu(host) { Ok(()) } else { Err(no_iommu()) }
    }
}

/// A function's class, in words (PCI Code and ID Assignment Specification, base classes).
fn what(report: &Inspection) -> &'static str {
    if report.id == (VENDOR_ID, DEVICE_ID) {
        return "Turnstile device";
    }
    match report.class >> 16 {
        0x01 => "storage",
        0x02 => "network",
        0x03 => "display or 3D",
        0x04 => "multimedia",
        0x05 => "memory",
        0x06 => "bridge",
        0x07 => "communication",
        0x08 => "system",
        0x0c => "serial bus",
        0x0d => "wireless",
        0x12 => "accelerator",
        _ => "other",
    }
}

impl Check {
    fn run(&self, host: &Host) -> Result<(), Failure> {
        let report = inspect(host, &self.address, &self.accept.allowances());
        if self.json {
            say_json(&json!({ "claimable": report.is_claimable(), "report": report }))?;
        } else {
            show(&report)?;
        }
        match report.refusals().next() {
            None => Ok(()),
            Some(_) if !has_iommu(host) => Err(no_iommu()),
            Some(_) if self.json => Err(Failure::said()),
            Some(finding) => Err(Failure::check(
                format!("{} cannot be claimed: {}", report.address, finding.what),
                finding.fix.clone(),
            )),
        }
    }
}

fn show(report: &Inspection) -> Result<(), Failure> {
    say(format!("{} ({:04x}:{:04x}), {}", report.address, report.id.0, report.id.1, what(report)))?;
    for finding in &report.findings {
        let mark = match finding.level {
            Level::Good => "ok",
            Level::Warn => "note",
            Level::Refuse => "NO",
        };
        say(format!("  {mark:4}  {}: {}", finding.check.name(), finding.what))?;
        if finding.level != Level::Good {
            say(format!("        {}", finding.path.display()))?;
            if !finding.fix.is_empty() {
                say(format!("        fix: {}", finding.fix))?;
            }
        }
    }
    Ok(())
}

fn failed(error: ClaimError) -> Failure {
    match error {
        ClaimError::File { .. } => Failure::machine(error.to_string(), ""),
        _ => Failure::check(error.to_string(), ""),
    }
}

impl ClaimCommand {
    fn run(&self, host: Host, records: &Records) -> Result<(), Failure> {
        let allow = self.accept.allowances();
        let claim = Claim::take(host, records, &self.address, &allow).map_err(failed)?;
        let before = claim.driver_before().map(str::to_owned);
        claim.keep().map_err(failed)?;
        if self.json {
            return say_json(&json!({ "claimed": self.address, "driver_before": before }));
        }
        let before = before.map_or("no driver".into(), |driver| format!("driver {driver}"));
        say(format!("{} is bound to vfio-pci; it was bound to {before}", self.address))
    }
}

impl Release {
    fn run(&self, host: &Host, records: &Records) -> Result<(), Failure> {
        claim::release(host, records, &self.address).map_err(failed)?;
        let driver = host.driver(&self.address);
        if self.json {
            return say_json(&json!({ "released": self.address, "driver": driver }));
        }
        let now = driver.map_or("no driver".into(), |driver| format!("driver {driver}"));
        say(format!("{} is bound to {now} again", self.address))
    }
}
