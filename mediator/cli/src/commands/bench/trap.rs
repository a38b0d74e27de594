//! What a trapped register access costs beside a bare exit of KVM.

use std::sync::Arc;

use turnstile_abi::version::Features;
use turnstile_backend_api::SharedRegion;
use turnstile_core::Registers;
use turnstile_device::Device;

use super::Figure;

const APERTURE: u64 = 4 << 20;

pub(super) fn measure(effort: u32) -> Result<Vec<Figure>, String> {
    turnstile_kvm::probe().map_err(|e| e.to_string())?;
    let registers = Arc::new(Registers::new(Features::empty(), APERTURE, APERTURE / 4));
    let aperture = SharedRegion::create("bench", APERTURE).map_err(|e| e.to_string())?;
    let device = Device::new(registers, Arc::new(aperture)).map_err(|e| e.to_string())?;
    let cost = turnstile_kvm::bench::trap_cost(&Arc::new(device), effort * 5_000)
        .map_err(|e| e.to_string())?;
    Ok(vec![
        Figure::new("trap", "BAR0 read, trapped", cost.device_ns, "ns")
            .against("exit with an empty handler", cost.bare_ns)
            .at_most_times(1.1),
    ])
}
