//! Validators and compilers that need no driver: spv-val for SPIR-V, DXC for HLSL.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use incept::kernel::{AdapterClass, Profile};

use crate::Result;
use crate::families::{Lab, existing};
use crate::kernels::{self, Planned};
use crate::translate::{Language, Translator};

/// What a validator said of the pipelines of all plans.
pub struct Verdict {
    /// The validator.
    pub name: &'static str,
    /// Pipelines that it accepted.
    pub accepted: usize,
    /// Pipelines that it cannot know, by reason.
    pub skipped: Vec<(String, usize)>,
    /// Pipelines that it rejected, with its message.
    pub rejected: Vec<String>,
    /// Why it did not run.
    pub missing: Option<String>,
}

impl Verdict {
    fn new(name: &'static str) -> Self {
        Self { name, accepted: 0, skipped: Vec::new(), rejected: Vec::new(), missing: None }
    }

    fn skip(&mut self, reason: String) {
        match self.skipped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.skipped.push((reason, 1)),
        }
    }

    fn reject(&mut self, kernel: &str, message: &str) {
        let first = message.lines().find(|line| line.contains("error")).or(message.lines().next());
        self.rejected.push(format!("{kernel}: {}", first.unwrap_or("no message")));
    }
}

/// Validates the pipelines that plans of both variants use on any class of device, in f32 and f16,
/// and with cooperative matrices.
///
/// # Errors
/// Errors of the engine.
pub fn run(lab: &Lab, first: bool) -> Result<Vec<Verdict>> {
    let classes = AdapterClass::ALL.iter().map(|class| Profile { f16: true, ..Profile::webgpu(*class) });
    let profiles: Vec<Profile> = classes.chain([Profile::with_matrices()]).collect();
    let planned = kernels::planned(&profiles, first)?;
    std::thread::scope(|scope| {
        let hlsl = scope.spawn(|| hlsl(lab, &planned).map_err(|e| e.to_string()));
        let spirv = spirv(lab, &planned);
        let hlsl = hlsl.join().map_err(|_| "the thread of DXC panicked")?;
        Ok(vec![spirv?, hlsl?])
    })
}

/// The validator of SPIR-V.
fn spirv_val(lab: &Lab) -> PathBuf {
    match lab {
        Lab::Folder(folder) => folder.join("spirv/usr/bin/spirv-val"),
        Lab::System => "spirv-val".into(),
    }
}

/// The program that compiles HLSL with Microsoft's compiler, and that compiler's library.
fn dxc(lab: &Lab) -> Result<[PathBuf; 2]> {
    match lab {
        Lab::Folder(folder) => {
            Ok([existing(&folder.join("dxc"))?, existing(&folder.join("libdxcompiler.so"))?])
        }
        Lab::System => Err("it is not a package of Debian: run setup".into()),
    }
}

fn spirv(lab: &Lab, planned: &[Planned]) -> Result<Verdict> {
    let mut verdict = Verdict::new("spv-val");
    let program = spirv_val(lab);
    if let Err(error) = Command::new(&program).arg("--version").stdout(Stdio::null()).status() {
        verdict.missing = Some(format!("{}: {error}", program.display()));
        return Ok(verdict);
    }
    for Planned { kernel, text, entry, .. } in planned {
        if kernel.cooperative {
            verdict.skip("this spv-val does not know cooperative matrices".into());
            continue;
        }
        let translator = Translator::new(kernel, text, entry)?;
        let words = match translator.translate(Language::Spirv) {
            Ok(words) => words,
            Err(reason) => {
                verdict.reject(&kernel.label, &reason.to_string());
                continue;
            }
        };
        let (valid, message) = validated(&program, &words)?;
        if valid {
            verdict.accepted += 1;
        } else {
            verdict.reject(&kernel.label, &message);
        }
    }
    Ok(verdict)
}

/// Whether spv-val accepts a module, and its message.
fn validated(program: &Path, words: &[u8]) -> Result<(bool, String)> {
    let mut child = Command::new(program)
        .args(["--target-env", "vulkan1.1", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A validator that stops reading says why.
        let _ = input.write_all(words);
    }
    let output = child.wait_with_output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn hlsl(lab: &Lab, planned: &[Planned]) -> Result<Verdict> {
    let mut verdict = Verdict::new("DXC");
    let [program, library] = match dxc(lab) {
        Ok(files) => files,
        Err(error) => {
            verdict.missing = Some(error.to_string());
            return Ok(verdict);
        }
    };
    let mut dxc = Dxc::start(&program, &library)?;
    for Planned { kernel, text, entry, .. } in planned {
        let hlsl = match Translator::new(kernel, text, entry)?.translate(Language::Hlsl) {
            Ok(hlsl) => hlsl,
            Err(reason) => {
                verdict.skip(reason.to_string());
                continue;
            }
        };
        match dxc.compile(entry, &hlsl) {
            Ok(answer) if answer == "ok" => verdict.accepted += 1,
            Ok(answer) => verdict.reject(&kernel.label, &answer),
            // It ended, for example with a crash: the others are compiled by another process.
            Err(error) => {
                verdict.reject(&kernel.label, &format!("error: DXC ended: {error}"));
                dxc = Dxc::start(&program, &library)?;
            }
        }
    }
    Ok(verdict)
}

/// A process that compiles HLSL; see dxc.cpp.
struct Dxc {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Dxc {
    fn start(program: &Path, library: &Path) -> Result<Self> {
        let mut child =
            Command::new(program).arg(library).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.ok_or("the output of DXC is not a pipe")?);
        Ok(Self { child, input, output })
    }

    /// The compiler's answer for an entry point.
    fn compile(&mut self, entry: &str, hlsl: &[u8]) -> Result<String> {
        let input = self.input.as_mut().ok_or("the input of DXC is closed")?;
        writeln!(input, "{entry} {}", hlsl.len())?;
        input.write_all(hlsl)?;
        input.flush()?;
        let mut answer = String::new();
        if self.output.read_line(&mut answer)? == 0 {
            return Err(format!("{}", self.child.wait()?).into());
        }
        Ok(answer.trim_end().to_string())
    }
}

impl Drop for Dxc {
    fn drop(&mut self) {
        // It ends with its input.
        self.input = None;
        let _ = self.child.wait();
    }
}
