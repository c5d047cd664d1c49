//! One physical adapter for everyone.

use burn::tensor::wgpu::{WgpuBackend, wgpu};
use burn::tensor::{Device, DeviceKind};
use incept::gpu::{AdapterOptions, AdapterSummary, Gpu, list_adapters};

use crate::Result;

/// The devices that were opened on the adapter.
pub struct Devices {
    /// incept's.
    pub gpu: Gpu,
    /// burn's, without autodiff.
    pub burn: Device,
    /// The number by which the driver knows the adapter.
    #[cfg(feature = "meganeura")]
    pub id: u32,
    /// What both say of it.
    pub description: String,
}

/// Lets incept choose the adapter and opens it for burn too.
pub fn open(options: &AdapterOptions) -> Result<Devices> {
    let gpu = Gpu::open_blocking(options)?;
    let summary = gpu.summary().clone();
    let (backend, api) = match summary.backend.as_str() {
        "vulkan" => (wgpu::Backend::Vulkan, WgpuBackend::Vulkan),
        "metal" => (wgpu::Backend::Metal, WgpuBackend::Metal),
        "dx12" => (wgpu::Backend::Dx12, WgpuBackend::Dx12),
        "gl" => (wgpu::Backend::Gl, WgpuBackend::Gl),
        other => return Err(format!("burn has no backend `{other}`").into()),
    };
    let kind = kind_of(&summary, pollster::block_on(list_adapters(options.backend)), backend)?;
    let (burn, setup) = Device::wgpu_options().device_kind(kind).graphics_api(api).init_with_setup()?;
    let info = setup.adapter.get_info();
    if info.name != summary.name {
        return Err(format!("incept runs on `{}` and burn on `{}`", summary.name, info.name).into());
    }
    Ok(Devices {
        gpu,
        burn,
        #[cfg(feature = "meganeura")]
        id: info.device,
        description: summary.to_string(),
    })
}

/// burn counts the adapters of each kind on one graphics API.
fn kind_of(
    summary: &AdapterSummary,
    listed: Vec<AdapterSummary>,
    backend: wgpu::Backend,
) -> Result<DeviceKind> {
    let like = |s: &&AdapterSummary| s.name == summary.name && s.backend == summary.backend;
    let duplicates_before = listed.iter().filter(like).take_while(|s| s.index < summary.index).count();
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backend.into();
    let instance = wgpu::Instance::new(descriptor);
    let infos: Vec<wgpu::AdapterInfo> = pollster::block_on(instance.enumerate_adapters(backend.into()))
        .iter()
        .map(wgpu::Adapter::get_info)
        .collect();
    let found = infos.iter().enumerate().filter(|(_, i)| i.name == summary.name).nth(duplicates_before);
    let (at, info) = found.ok_or_else(|| format!("burn does not see the adapter `{}`", summary.name))?;
    let index = infos[..at].iter().filter(|i| i.device_type == info.device_type).count();
    Ok(match info.device_type {
        wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu(index),
        wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu(index),
        wgpu::DeviceType::VirtualGpu => DeviceKind::VirtualGpu(index),
        wgpu::DeviceType::Cpu => DeviceKind::Cpu,
        wgpu::DeviceType::Other => DeviceKind::DefaultDevice,
    })
}
