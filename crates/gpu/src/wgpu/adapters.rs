//! Finding and opening devices.

use super::Wgpu;
use super::pipelines::PARAMETER_BYTES;
use crate::{DeviceInfo, DeviceKind, Interface, OpenError};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

/// The result of a future that is ready at once, as all of wgpu's are outside of browsers.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        std::thread::yield_now();
    }
}

/// The share of the memory's budget that may be used.
const MEMORY_PERCENT: u8 = 97;

const BACKENDS: wgpu::Backends =
    wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

/// The instance of this process. It is never dropped, because dropping the last one unloads drivers, and NVIDIA's
/// leaves destructors in threads that outlive it.
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = BACKENDS;
        // Beyond its budget, a driver may move memory to the host without a word.
        descriptor.memory_budget_thresholds.for_resource_creation = Some(MEMORY_PERCENT);
        wgpu::Instance::new(descriptor)
    })
}

fn all() -> Vec<wgpu::Adapter> {
    let adapters = now(instance().enumerate_adapters(BACKENDS));
    let mut usable: Vec<_> = adapters.into_iter().filter(is_usable).collect();
    // A GPU of Windows is there twice; the kernels are better tried on Vulkan.
    usable.sort_by_key(|adapter| adapter.get_info().backend == wgpu::Backend::Dx12);
    usable
}

/// Bytes of the memory of a discrete GPU, where the system says so.
#[cfg(any(target_os = "linux", windows))]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`.
    const DEVICE_LOCAL: u32 = 1;
    if adapter.get_info().device_type != wgpu::DeviceType::DiscreteGpu {
        return None;
    }
    // SAFETY: the adapter is only asked for its properties.
    let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = vulkan.shared_instance().raw_instance();
    // SAFETY: the physical device belongs to the instance, and both live as long as the adapter.
    let memory = unsafe { instance.get_physical_device_memory_properties(vulkan.raw_physical_device()) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

#[cfg(not(any(target_os = "linux", windows)))]
fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}

/// The name of a system interface.
pub(super) fn system(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "Vulkan",
        wgpu::Backend::Metal => "Metal",
        wgpu::Backend::Dx12 => "DirectX 12",
        other => other.to_str(),
    }
}

/// Parameters are passed as immediates.
fn is_usable(adapter: &wgpu::Adapter) -> bool {
    adapter.features().contains(wgpu::Features::IMMEDIATES)
        && adapter.limits().max_immediate_size >= PARAMETER_BYTES
}

/// The devices behind Vulkan, Metal and DirectX 12.
pub(crate) fn adapters() -> Vec<DeviceInfo> {
    let info = |(index, adapter): (usize, wgpu::Adapter)| {
        let (info, memory_bytes) = (adapter.get_info(), memory_bytes(&adapter));
        DeviceInfo {
            interface: Interface::Wgpu,
            index,
            name: info.name,
            system: system(info.backend).to_owned(),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
                wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
                wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
                wgpu::DeviceType::Cpu => DeviceKind::Software,
                wgpu::DeviceType::Other => DeviceKind::Other,
            },
            memory_bytes,
            is_usable: true,
        }
    };
    all().into_iter().enumerate().map(info).collect()
}

/// Opens a device by its index in [`adapters`].
pub(crate) fn open(index: usize) -> Result<Wgpu, OpenError> {
    let adapter = all().into_iter().nth(index).ok_or(OpenError::Missing { index })?;
    let name = adapter.get_info().name;
    let descriptor = wgpu::DeviceDescriptor {
        label: None,
        required_features: wgpu::Features::IMMEDIATES,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = now(adapter.request_device(&descriptor))
        .map_err(|error| OpenError::Refused { name, reason: error.to_string() })?;
    Ok(Wgpu::new(&adapter.get_info(), memory_bytes(&adapter), device, queue))
}
