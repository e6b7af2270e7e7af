//! `fathom devices`.

use crate::output;
use anyhow::Result;

pub(crate) fn run() -> Result<()> {
    let devices = fathom::devices();
    output::print(&devices.iter().map(|device| format!("{device}\n")).collect::<String>())?;
    if devices.len() == 1 {
        output::note(
            "no GPU was found; one needs a driver for Vulkan (on Linux with its loader, libvulkan1), Metal or DirectX 12, \
             or NVIDIA's driver",
        );
    }
    Ok(())
}
