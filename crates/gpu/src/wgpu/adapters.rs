//! Finding and opening devices.

use super::Wgpu;
use super::pipelines::PARAMETER_BYTES;
use crate::{DeviceInfo, DeviceKind, Interface, OpenError};
use std::pin::pin;
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

fn all() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    let adapters = now(wgpu::Instance::new(descriptor).enumerate_adapters(backends));
    adapters.into_iter().filter(is_usable).collect()
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
        let info = adapter.get_info();
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
            memory_bytes: None,
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
    Ok(Wgpu::new(&adapter, device, queue))
}
