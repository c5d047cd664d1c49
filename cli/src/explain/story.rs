//! `incept explain --story`: everything about the auxiliary heads as one HTML page.

use std::path::PathBuf;
use std::sync::Arc;

use incept::Error;
use incept::data::{Dataset, Loader};
use incept::explain::GradientFlow;
use incept::infer::EarlyExit;
use incept::low_level::output::{check_file, write_atomically};
use incept::low_level::untrusted::contained;
use incept::model::Topology;
use incept::tensor::Element;
use serde::Serialize;

use super::super::options::DeviceArgs;
use super::super::report::{Reporter, bytes, command_line, duration, note, plural, shown};
use super::super::sweep::{Swept, swept};
use super::super::{Outcome, Result};
use super::train::{Compared, Verdict};
use super::{BATCH, Explain, story_page};

/// What the page shows.
pub(super) struct Story<'a> {
    pub compared: &'a Compared,
    pub topology: Topology,
    /// The gradients at initialization, and of the first network with auxiliary heads after
    /// training, on the same batch.
    pub before: GradientFlow,
    pub after: GradientFlow,
    /// Early exit of that network.
    pub exit: Option<Swept>,
    /// Names and values about data, device and time.
    pub setting: Vec<(String, String)>,
    pub command_line: String,
}

#[derive(Serialize)]
struct StoryResult<'a> {
    event: &'static str,
    output: &'a PathBuf,
    bytes: usize,
    verdict: Verdict,
    before: &'a GradientFlow,
    after: &'a GradientFlow,
    early_exit: Option<&'a Swept>,
    seconds: f64,
}

impl Explain {
    /// The page's file.
    fn page(&self) -> Result<PathBuf> {
        let page = match self.out.as_slice() {
            [] => PathBuf::from("incept-explain.html"),
            [one] => one.clone(),
            _ => return Err(Error::Config("--story writes one page: give one --output".into())),
        };
        let ending = page.extension().map(|e| e.to_string_lossy().to_lowercase());
        if ending.as_deref() != Some("html") {
            return Err(Error::format(&page, "must end in .html: --story writes a page"));
        }
        check_file(&page)?;
        Ok(page)
    }

    /// Trains the networks, measures them, and writes the page.
    pub(super) fn story(&self, device_args: &DeviceArgs, reporter: &Reporter) -> Result {
        let page = self.page()?;
        let Some(compared) = self.pairs(device_args, reporter)? else { return Ok(Outcome::Interrupted) };
        let Compared { device, network, data, preprocessing, trained, .. } = &compared;
        let size = BATCH.min(data.train.len());
        let options = self.load.options(size, preprocessing).training(self.seed, None);
        let loader = Loader::new(Arc::clone(&data.train), options)?;
        let batch =
            loader.epoch(0, 0).next().ok_or_else(|| Error::Config("the data set is empty".into()))??;
        let flow =
            |weights| device.block_on(GradientFlow::measure(device, network, weights, self.seed, &batch));
        let (before, after) = (flow(None)?, flow(Some(trained))?);
        let exit = self.exit(&compared, &data.validation, reporter)?;
        let took = compared.took;
        let setting = vec![
            (
                "data".to_string(),
                format!(
                    "{}: {} for training, {} for validation",
                    data.name,
                    data.train.len(),
                    data.validation.len()
                ),
            ),
            ("network".to_string(), compared.subtitle.clone()),
            (
                "training".to_string(),
                format!(
                    "{}, batch size {}, constant learning rate {}",
                    plural(self.epochs, "epoch"),
                    compared.recipe.batch,
                    self.lr
                ),
            ),
            ("device".to_string(), device.summary().to_string()),
            ("time of training".to_string(), duration(took)),
        ];
        let story = Story {
            compared: &compared,
            topology: Topology::of(&network.build(1)?),
            before,
            after,
            exit,
            setting,
            // Without the path of the program.
            command_line: [&["incept".to_string()], command_line().get(1..).unwrap_or_default()]
                .concat()
                .join(" "),
        };
        let html = contained(|| story_page::html(&story).map_err(|e| e.to_string()))
            .map_err(|e| Error::format(&page, format!("cannot be drawn: {e}")))?;
        write_atomically(&page, html.as_bytes())?;
        compared.verdict.words().iter().try_for_each(|line| reporter.line(line))?;
        reporter.line(&format!(
            "{} in all; wrote {} ({})",
            duration(took),
            shown(&page),
            bytes(html.len() as u64)
        ))?;
        reporter.event(&StoryResult {
            event: "story",
            output: &page,
            bytes: html.len(),
            verdict: compared.verdict,
            before: &story.before,
            after: &story.after,
            early_exit: story.exit.as_ref(),
            seconds: took.as_secs_f64(),
        })?;
        Ok(Outcome::Done)
    }

    /// Early exit of the trained network; none with too few validation images for its calibration.
    fn exit(
        &self,
        compared: &Compared,
        validation: &Arc<dyn Dataset>,
        reporter: &Reporter,
    ) -> Result<Option<Swept>> {
        let Compared { device, network, preprocessing, trained, recipe, .. } = compared;
        let options = self.load.options(recipe.batch, preprocessing);
        let staged = EarlyExit::new(device, network, recipe.batch, Element::F32, trained);
        let mut staged = device.block_on(staged)?;
        match swept(device, network, &mut staged, (validation, &options), reporter) {
            Ok((swept, _)) => Ok(Some(swept)),
            Err(Error::Config(reason)) => {
                note(&format!("note: no early exit on the page: {reason}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
