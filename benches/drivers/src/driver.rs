//! A Vulkan driver that only compiles.

use std::ffi::{CStr, CString};

use ash::khr::pipeline_executable_properties as executables;
use ash::vk;
use serde::Serialize;

use crate::Result;

/// A statistic of a pipeline, with the driver's name for it.
#[derive(Clone, Debug, Serialize)]
pub struct Statistic {
    /// For example `VGPRs` or `Register Count`.
    pub name: String,
    /// The number.
    pub value: f64,
}

/// What a driver reports of a compiled kernel.
pub struct Compiled {
    /// Invocations that run together.
    pub subgroup: u32,
    /// Its statistics, without hashes.
    pub statistics: Vec<Statistic>,
}

/// A device that only compiles. It lives as long as the process, so nothing is destroyed.
pub struct Driver {
    name: String,
    version: String,
    #[cfg(feature = "engine")]
    limits: vk::PhysicalDeviceLimits,
    device: ash::Device,
    executables: executables::Device,
    layout: vk::PipelineLayout,
    // Keeps the loader's library in memory.
    _entry: ash::Entry,
}

/// Upper bound on the number of bindings of a kernel.
const BINDINGS: u32 = 16;

fn text(words: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = words.iter().map(|c| c.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned()
}

impl Driver {
    /// Opens the device with this index.
    pub fn open(number: usize) -> Result<Self> {
        // SAFETY: the loader's library is the system's own, and all handles below are of the
        // objects that they are used with.
        unsafe {
            let entry = ash::Entry::load().map_err(|e| format!("there is no Vulkan loader: {e}"))?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
            let info = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&info, None)?;
            let devices = instance.enumerate_physical_devices()?;
            let physical = *devices.get(number).ok_or(format!("there are {} devices", devices.len()))?;
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(physical, &mut properties);
            let properties = properties.properties;
            let version = format!("{} {}", text(&driver.driver_name), text(&driver.driver_info));
            let queue = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let extensions = [executables::NAME.as_ptr()];
            let mut statistics = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
                .pipeline_executable_info(true);
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queue)
                .enabled_extension_names(&extensions)
                .push_next(&mut statistics);
            let device = instance
                .create_device(physical, &info, None)
                .map_err(|e| format!("the driver does not report pipeline statistics: {e}"))?;
            let executables = executables::Device::new(&instance, &device);
            let binding = |number: u32, kind| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(number)
                    .descriptor_type(kind)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            };
            let bindings: Vec<_> =
                (0..BINDINGS).map(|i| binding(i, vk::DescriptorType::STORAGE_BUFFER)).collect();
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [device.create_descriptor_set_layout(&info, None)?];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = device.create_pipeline_layout(&info, None)?;
            let name = text(&properties.device_name);
            Ok(Self {
                name,
                version,
                #[cfg(feature = "engine")]
                limits: properties.limits,
                device,
                executables,
                layout,
                _entry: entry,
            })
        }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver's name and version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its limits.
    #[cfg(feature = "engine")]
    pub fn limits(&self) -> &vk::PhysicalDeviceLimits {
        &self.limits
    }

    /// Compiles an entry point of SPIR-V and reads its statistics.
    ///
    /// # Errors
    /// Errors of the driver.
    pub fn compile(&self, code: &[u32], entry: &str) -> Result<Compiled> {
        let entry = CString::new(entry)?;
        // SAFETY: the code is valid for the layout: it has storage buffers only, in the first set,
        // fewer than the layout has.
        unsafe {
            let info = vk::ShaderModuleCreateInfo::default().code(code);
            let module = self.device.create_shader_module(&info, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&entry);
            let info = [vk::ComputePipelineCreateInfo::default()
                .flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR)
                .stage(stage)
                .layout(self.layout)];
            let pipeline = self
                .device
                .create_compute_pipelines(vk::PipelineCache::null(), &info, None)
                .map_err(|(_, e)| e)?[0];
            let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
            let parts = self.executables.get_pipeline_executable_properties(&info)?;
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let list = self.executables.get_pipeline_executable_statistics(&info)?;
            self.device.destroy_pipeline(pipeline, None);
            self.device.destroy_shader_module(module, None);
            // Hashes only identify pipelines.
            let told = list.iter().map(statistic).filter(|s| !s.name.to_lowercase().contains("hash"));
            let subgroup = parts.first().map_or(0, |part| part.subgroup_size);
            Ok(Compiled { subgroup, statistics: told.collect() })
        }
    }
}

fn statistic(told: &vk::PipelineExecutableStatisticKHR<'_>) -> Statistic {
    use vk::PipelineExecutableStatisticFormatKHR as Format;
    // SAFETY: the format says which of the union's values it has.
    let value = unsafe {
        match told.format {
            Format::BOOL32 => f64::from(told.value.b32),
            Format::INT64 => told.value.i64 as f64,
            Format::UINT64 => told.value.u64 as f64,
            _ => told.value.f64,
        }
    };
    Statistic { name: text(&told.name), value }
}
