//! `incept train`

use std::path::PathBuf;

use clap::Args;
use incept::Error;
use incept::data::{OpenOptions, Preprocessing};
use incept::weights::Checkpoint;

use super::data::{FORMATS, LoadArgs, describe, suited_input};
use super::fit::{Policy, Run, Setup, interruptible};
use super::options::{Augment, Common, NetworkArgs, OptimizerArgs, PrecisionArgs};
use super::report::{Reporter, bytes, note, thousands};
use super::{Outcome, Result};

/// Train a network on a data set and save it as a checkpoint.
///
/// Every epoch ends with a look at the pictures that are held out and with a checkpoint. Ctrl-C saves too, and `--resume` goes on where a
/// checkpoint was made: bit for bit as if nothing had happened.
#[derive(Args, Debug)]
#[command(after_long_help = FORMATS)]
pub(crate) struct Train {
    /// `digits`, or a folder with a data set. With `--resume`, the one of the run if it is not named.
    #[arg(required_unless_present = "resume")]
    data: Option<String>,
    #[command(flatten)]
    network: NetworkArgs,
    /// Epochs [default: 30, or as the run that is resumed].
    #[arg(long, value_name = "COUNT", help_heading = "Training")]
    epochs: Option<u64>,
    /// Pictures of a batch.
    #[arg(long, value_name = "COUNT", default_value_t = 32, help_heading = "Training")]
    batch: usize,
    /// What weights, order, augmentation and dropout are drawn from.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, help_heading = "Training")]
    seed: u64,
    #[command(flatten)]
    optimizer: OptimizerArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// What is done to training pictures.
    #[arg(long, value_name = "KIND", default_value = "auto", help_heading = "Data")]
    augment: Augment,
    /// Train on at most so many pictures, chosen evenly over the classes.
    #[arg(long, value_name = "COUNT", help_heading = "Data")]
    limit: Option<usize>,
    /// Share of the pictures that is held out where the data set has no test part.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, help_heading = "Data")]
    held_out: f64,
    #[command(flatten)]
    load: LoadArgs,
    /// The checkpoint's file [default: incept.safetensors, or the one that is resumed].
    #[arg(long, value_name = "FILE", help_heading = "Checkpoints")]
    out: Option<PathBuf>,
    /// Epochs between checkpoints.
    #[arg(long, value_name = "EPOCHS", default_value_t = 1, help_heading = "Checkpoints")]
    save_every: u64,
    /// Go on from this checkpoint, with its network and configuration.
    #[arg(long, value_name = "FILE", help_heading = "Checkpoints", conflicts_with_all = FIXED_BY_RUN)]
    resume: Option<PathBuf>,
    /// Do not look at the held-out part after each epoch.
    #[arg(long, help_heading = "Training")]
    no_validation: bool,
}

/// What a run that is resumed has decided already.
const FIXED_BY_RUN: [&str; 24] = [
    "variant",
    "width",
    "input",
    "aux_weight",
    "dropout",
    "aux_dropout",
    "smoothing",
    "init",
    "bias_rate",
    "batch",
    "seed",
    "optimizer",
    "rate",
    "schedule",
    "warmup",
    "momentum",
    "weight_decay",
    "clip_norm",
    "average",
    "accumulate",
    "precision",
    "augment",
    "limit",
    "held_out",
];

impl Train {
    pub(crate) fn run(&self, common: &Common, reporter: &Reporter) -> Result {
        let checkpoint = self.resume.as_deref().map(Checkpoint::load).transpose()?;
        let mut setup = match &checkpoint {
            Some(checkpoint) => self.resumed(checkpoint)?,
            None => self.fresh()?,
        };
        let stop = interruptible()?;
        let gpu = common.open()?;
        if checkpoint.is_none() {
            setup.run.optimizer.precision = self.precision.training(&gpu);
        }
        let mut trainer = setup.trainer(&gpu, common, &stop, reporter)?;
        if let Some(checkpoint) = &checkpoint {
            trainer.restore(&checkpoint.state)?;
        }
        let memory = trainer.session().plan().memory;
        let layout = &trainer.session().regions().layout;
        let parameters: usize = layout.parameters.iter().map(|e| e.shape.volume()).sum();
        note(&format!(
            "network: {} with {} softmaxes, {} parameters, {} on the device",
            setup.network.variant,
            if setup.network.has_aux() { 3 } else { 1 },
            thousands(parameters as u64),
            bytes(memory.total_bytes())
        ));
        if trainer.progress().epoch >= setup.run.epochs {
            note("all epochs of this run are done already: give more with --epochs");
            return Ok(Outcome::Done);
        }
        let default_out = || PathBuf::from("incept.safetensors");
        let out = self.out.clone().or_else(|| self.resume.clone()).unwrap_or_else(default_out);
        let policy = Policy {
            out: Some(&out),
            save_every: self.save_every,
            validate: !self.no_validation,
            enough: None,
        };
        let history = setup.fit(&mut trainer, &policy, &stop, reporter)?;
        Ok(if history.interrupted { Outcome::Interrupted } else { Outcome::Done })
    }

    fn fresh(&self) -> Result<Setup> {
        let Some(what) = &self.data else { return Err(Error::Config("name a data set".into())) };
        let options = OpenOptions { held_out: self.held_out, limit: self.limit, seed: self.seed };
        let data = describe(what, &options)?;
        let network = self.network.network(data.train.classes().len(), suited_input(&data.train))?;
        let preprocessing = Preprocessing::new(network.input).measure(data.train.as_ref(), 1000);
        let run = Run {
            data: what.clone(),
            held_out: self.held_out,
            limit: self.limit,
            epochs: self.epochs.unwrap_or(30),
            batch: self.batch,
            rate: self.optimizer.rate,
            schedule: self.optimizer.schedule,
            warmup: self.optimizer.warmup,
            optimizer: self.optimizer.optimizer(),
            augmentation: self.augment.augmentation(data.suits),
            seed: self.seed,
        };
        Ok(Setup { run, network, preprocessing, data, load: self.load.clone() })
    }

    fn resumed(&self, checkpoint: &Checkpoint) -> Result<Setup> {
        let metadata = &checkpoint.metadata;
        let mut run: Run = serde_json::from_value(metadata.run.clone()).map_err(|e| {
            Error::Config(format!(
                "this checkpoint does not say how it was trained and cannot be resumed: {e}"
            ))
        })?;
        if let Some(data) = &self.data {
            run.data.clone_from(data);
        }
        if let Some(epochs) = self.epochs {
            run.epochs = epochs;
        }
        let options = OpenOptions { held_out: run.held_out, limit: run.limit, seed: run.seed };
        let data = describe(&run.data, &options)?;
        if data.train.classes() != metadata.classes {
            let classes = metadata.classes.join(", ");
            return Err(Error::Config(format!(
                "{} does not have the checkpoint's classes: {classes}",
                run.data
            )));
        }
        Ok(Setup {
            run,
            network: metadata.network.clone(),
            preprocessing: metadata.preprocessing.clone(),
            data,
            load: self.load.clone(),
        })
    }
}
