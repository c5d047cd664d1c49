//! A kernel's WGSL in the languages of drivers, as naga translates it. `benches/drivers` includes
//! this module by its path.

use std::fmt;

use clap::ValueEnum;
use incept::Error;
use incept::kernel::Kernel;
use naga::back::{glsl, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{Module, ResourceBinding, ShaderStage};
use serde::Serialize;

/// A language that compilers of drivers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Language {
    /// WebGPU's language, in which the kernels are written.
    Wgsl,
    /// Vulkan: SPIR-V 1.3, binary.
    Spirv,
    /// Metal 2.1, or 2.3 for cooperative matrices.
    Msl,
    /// DX12: shader model 6.2.
    Hlsl,
    /// OpenGL ES 3.1.
    Glsl,
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wgsl => "WGSL",
            Self::Spirv => "SPIR-V",
            Self::Msl => "MSL",
            Self::Hlsl => "HLSL",
            Self::Glsl => "GLSL",
        })
    }
}

/// A kernel that a language cannot express.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Untranslatable {
    language: Language,
    reason: String,
}

impl fmt::Display for Untranslatable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {}: {}", self.language, self.reason)
    }
}

/// A valid kernel, ready to be translated.
#[derive(Debug)]
pub(crate) struct Translator {
    wgsl: String,
    cooperative: bool,
    bindings: usize,
    /// Name of the entry point.
    pub(crate) entry: &'static str,
    /// The parsed WGSL.
    pub(crate) module: Module,
    /// What the validator found.
    pub(crate) info: ModuleInfo,
}

/// No bounds checks, as the engine's own kernels are compiled.
fn unchecked() -> BoundsCheckPolicies {
    let none = BoundsCheckPolicy::Unchecked;
    BoundsCheckPolicies { index: none, buffer: none, image_load: none, binding_array: none }
}

impl Translator {
    /// Parses and validates the WGSL of a kernel's pipeline, with the name of its entry point.
    ///
    /// # Errors
    /// [`Error::Kernel`] for a kernel without valid WGSL.
    pub(crate) fn new(kernel: &Kernel, wgsl: &str, entry: &'static str) -> incept::Result<Self> {
        let wgsl = wgsl.to_string();
        let invalid = |reason| Error::Kernel { kernel: kernel.label.clone(), reason, source: None };
        let module = naga::front::wgsl::parse_str(&wgsl).map_err(|e| invalid(e.emit_to_string(&wgsl)))?;
        // Capabilities of every WebGPU device, and those that the kernel requests.
        let mut capabilities = Capabilities::default();
        capabilities.set(Capabilities::SHADER_FLOAT16, wgsl.contains("enable f16"));
        capabilities.set(Capabilities::SUBGROUP, kernel.cooperative || wgsl.contains("subgroupBroadcast"));
        capabilities.set(Capabilities::COOPERATIVE_MATRIX, kernel.cooperative);
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .subgroup_stages(ShaderStages::COMPUTE)
            .subgroup_operations(SubgroupOperationSet::all())
            .validate(&module)
            .map_err(|e| invalid(e.emit_to_string(&wgsl)))?;
        let cooperative = kernel.cooperative;
        Ok(Self { wgsl, entry, cooperative, bindings: kernel.bindings.len(), module, info })
    }

    /// The kernel in a language, without runtime checks and with workgroup memory that is not
    /// initialized, as the engine's own kernels are compiled.
    ///
    /// # Errors
    /// [`Untranslatable`] with the feature that the language lacks, or the translator's message.
    pub(crate) fn translate(&self, language: Language) -> Result<Vec<u8>, Untranslatable> {
        let failed = |reason| Untranslatable { language, reason };
        match language {
            Language::Wgsl => Ok(self.wgsl.clone().into_bytes()),
            Language::Spirv => {
                let words = self.spirv().map_err(failed)?;
                Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
            }
            Language::Msl => self.msl().map(String::into_bytes).map_err(failed),
            Language::Hlsl => self.hlsl().map(String::into_bytes).map_err(failed),
            Language::Glsl => self.glsl().map(String::into_bytes).map_err(failed),
        }
    }

    /// The words of its SPIR-V.
    ///
    /// # Errors
    /// The translator's message.
    pub(crate) fn spirv(&self) -> Result<Vec<u32>, String> {
        let options = spv::Options {
            // Subgroups need 1.3.
            lang_version: (1, 3),
            bounds_check_policies: unchecked(),
            force_loop_bounding: false,
            emit_int_div_checks: false,
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            ..spv::Options::default()
        };
        let pipeline =
            spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: self.entry.into() };
        spv::write_vec(&self.module, &self.info, &options, Some(&pipeline)).map_err(|e| e.to_string())
    }

    fn msl(&self) -> Result<String, String> {
        let slots = self.resources().zip(0..);
        let target = |slot| msl::BindTarget { buffer: Some(slot), mutable: true, ..Default::default() };
        let resources = slots.map(|(resource, slot)| (resource, target(slot))).collect();
        // The sizes of the arrays follow the bindings, the step and the geometry.
        let sizes_buffer = u8::try_from(self.bindings + 2).ok();
        let resources = msl::EntryPointResources { resources, sizes_buffer, immediates_buffer: None };
        let options = msl::Options {
            lang_version: if self.cooperative { (2, 3) } else { (2, 1) },
            per_entry_point_map: [(self.entry.to_string(), resources)].into(),
            bounds_check_policies: unchecked(),
            zero_initialize_workgroup_memory: false,
            force_loop_bounding: false,
            emit_int_div_checks: false,
            ..msl::Options::default()
        };
        let entry_point = Some((ShaderStage::Compute, self.entry.into()));
        let pipeline = msl::PipelineOptions { entry_point, ..msl::PipelineOptions::default() };
        let written = msl::write_string(&self.module, &self.info, &options, &pipeline);
        written.map(|(text, _)| text).map_err(|e| e.to_string())
    }

    fn hlsl(&self) -> Result<String, String> {
        if self.cooperative {
            return Err("shader model 6.2 has no cooperative matrices".into());
        }
        let options = hlsl::Options {
            shader_model: hlsl::ShaderModel::V6_2,
            zero_initialize_workgroup_memory: false,
            restrict_indexing: false,
            force_loop_bounding: false,
            ..hlsl::Options::default()
        };
        let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, self.entry.into())) };
        let mut text = String::new();
        let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
        writer.write(&self.module, &self.info, None).map_err(|e| e.to_string())?;
        Ok(text)
    }

    fn glsl(&self) -> Result<String, String> {
        if self.cooperative {
            return Err("OpenGL ES has no cooperative matrices".into());
        }
        if self.wgsl.contains("enable f16") {
            return Err("OpenGL ES has no f16 in buffers; use --precision f32".into());
        }
        let options = glsl::Options {
            version: glsl::Version::new_gles(310),
            binding_map: self.resources().zip(0..).collect(),
            zero_initialize_workgroup_memory: false,
            ..glsl::Options::default()
        };
        let stage = ShaderStage::Compute;
        let pipeline =
            glsl::PipelineOptions { shader_stage: stage, entry_point: self.entry.into(), multiview: None };
        let mut text = String::new();
        glsl::Writer::new(&mut text, &self.module, &self.info, &options, &pipeline, unchecked())
            .and_then(|mut writer| writer.write())
            .map_err(|e| e.to_string())?;
        Ok(text)
    }

    /// Its bindings, then the uniforms of the geometry and the step, numbered as in WGSL.
    fn resources(&self) -> impl Iterator<Item = ResourceBinding> {
        let count = u32::try_from(self.bindings + 2).unwrap_or(u32::MAX);
        (0..count).map(|binding| ResourceBinding { group: 0, binding })
    }
}
