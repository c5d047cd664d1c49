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
            let name = text(&properties.device_name);
            Ok(Self {
                name,
                version,
                #[cfg(feature = "engine")]
                limits: properties.limits,
                device,
                executables,
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

    /// A layout with these bindings as uniforms, all others as storage buffers: compilers load the
    /// two in different ways.
    ///
    /// # Safety
    /// The device is alive, as it is as long as the process.
    unsafe fn layout(&self, uniforms: &[u32]) -> Result<vk::PipelineLayout> {
        let binding = |number: u32| {
            let is_uniform = uniforms.contains(&number);
            vk::DescriptorSetLayoutBinding::default()
                .binding(number)
                .descriptor_type(if is_uniform {
                    vk::DescriptorType::UNIFORM_BUFFER
                } else {
                    vk::DescriptorType::STORAGE_BUFFER
                })
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = (0..BINDINGS).map(binding).collect();
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: the pointers in the structures are of this function.
        unsafe {
            let sets = [self.device.create_descriptor_set_layout(&info, None)?];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.device.create_pipeline_layout(&info, None);
            self.device.destroy_descriptor_set_layout(sets[0], None);
            Ok(layout?)
        }
    }

    /// Compiles an entry point of SPIR-V and reads its statistics.
    ///
    /// # Errors
    /// Errors of the driver.
    pub fn compile(&self, code: &[u32], entry: &str) -> Result<Compiled> {
        let entry = CString::new(entry)?;
        // SAFETY: the code is valid for the layout, which has its uniforms as such and storage
        // buffers in all other bindings of the first set.
        unsafe {
            let layout = self.layout(&uniforms(code))?;
            let info = vk::ShaderModuleCreateInfo::default().code(code);
            let module = self.device.create_shader_module(&info, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&entry);
            let info = [vk::ComputePipelineCreateInfo::default()
                .flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR)
                .stage(stage)
                .layout(layout)];
            let pipeline = self
                .device
                .create_compute_pipelines(vk::PipelineCache::null(), &info, None)
                .map_err(|(_, e)| e)?[0];
            let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
            let parts = self.executables.get_pipeline_executable_properties(&info)?;
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let list = self.executables.get_pipeline_executable_statistics(&info)?;
            self.device.destroy_pipeline(pipeline, None);
            self.device.destroy_pipeline_layout(layout, None);
            self.device.destroy_shader_module(module, None);
            // Hashes only identify pipelines.
            let told = list.iter().map(statistic).filter(|s| !s.name.to_lowercase().contains("hash"));
            let subgroup = parts.first().map_or(0, |part| part.subgroup_size);
            Ok(Compiled { subgroup, statistics: told.collect() })
        }
    }
}

/// The bindings of a module's uniforms, by their decorations and storage class.
fn uniforms(code: &[u32]) -> Vec<u32> {
    const HEADER: usize = 5;
    const DECORATE: u32 = 71;
    const BINDING: u32 = 33;
    const VARIABLE: u32 = 59;
    const UNIFORM: u32 = 2;
    let (mut bindings, mut found) = (std::collections::BTreeMap::new(), Vec::new());
    let mut rest = code.get(HEADER..).unwrap_or_default();
    while let [first, ..] = rest {
        let length = usize::try_from(first >> 16).unwrap_or(0).max(1);
        let Some(instruction) = rest.get(..length) else { break };
        match (first & 0xffff, instruction) {
            (DECORATE, [_, id, BINDING, binding]) => drop(bindings.insert(*id, *binding)),
            (VARIABLE, [_, _, id, UNIFORM, ..]) => found.extend(bindings.get(id)),
            _ => {}
        }
        rest = &rest[length..];
    }
    found
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

#[cfg(test)]
mod tests {
    use super::uniforms;

    #[test]
    fn uniforms_are_found_by_their_storage_class() {
        let header = [0x0723_0203, 0x0001_0300, 0, 20, 0];
        let decorations = [4 << 16 | 71, 7, 33, 2, 4 << 16 | 71, 8, 33, 3, 4 << 16 | 71, 8, 34, 0];
        let variables = [4 << 16 | 59, 5, 7, 12, 4 << 16 | 59, 6, 8, 2];
        let module = [&header[..], &decorations, &variables].concat();
        assert_eq!(uniforms(&module), [3]);
        assert_eq!(uniforms(&module[..4]), [0; 0]);
        // A module that ends in an instruction, and one with an instruction of no words.
        assert_eq!(uniforms(&module[..module.len() - 1]), [0; 0]);
        assert_eq!(uniforms(&[&header[..], &[0, 0]].concat()), [0; 0]);
    }
}
