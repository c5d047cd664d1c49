//! Futures of the crate complete in any executor, on any of its threads.

#[path = "support/gpu.rs"]
mod gpu;
#[path = "support/skipped.rs"]
mod skipped;

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use incept::data::{Batch, Loader, LoaderOptions, OpenOptions, Preprocessing, open};
use incept::gpu::{AdapterOptions, Gpu, Session};
use incept::infer::{Classifier, InferenceGraph};
use incept::model::GoogLeNet;
use incept::ops::Relu;
use incept::optim::Optimizer;
use incept::reference::Array;
use incept::tensor::{Element, Spec};
use incept::train::{Trainer, train_epoch};
use incept::tune::Trial;

const INPUT: usize = 32;

/// Timeout, sufficient on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs with a timeout, so that a future that never wakes fails instead of hanging.
fn within<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(run()));
    receiver.recv_timeout(PATIENCE).expect("the device was not polled")
}

fn network() -> GoogLeNet {
    GoogLeNet::paper().width(0.0625).classes(10).input(INPUT)
}

fn images(count: usize) -> Vec<Vec<f32>> {
    let image =
        |n: usize| (0..3 * INPUT * INPUT).map(move |i| ((i * 31 + n * 77) % 255) as f32 / 128.0 - 1.0);
    (0..count).map(|n| image(n).collect()).collect()
}

/// Classifies some images; opening, building and running are in one executor.
async fn classes() -> incept::Result<Vec<Vec<usize>>> {
    let gpu = Gpu::open(&AdapterOptions::default()).await?;
    let mut classifier = Classifier::untrained(&gpu, &network(), 2, Element::F32, 7).await?;
    let made = classifier.classify(&images(3)).await?;
    Ok(made.iter().map(|row| row.iter().map(|p| p.class).collect()).collect())
}

/// As [`classes`], without an executor.
fn expected() -> Vec<Vec<usize>> {
    let gpu = gpu::open();
    let mut classifier =
        gpu.block_on(Classifier::untrained(&gpu, &network(), 2, Element::F32, 7)).expect("it can be made");
    let made = gpu.block_on(classifier.classify(&images(3))).expect("it runs");
    made.iter().map(|row| row.iter().map(|p| p.class).collect()).collect()
}

#[test]
fn completes_in_pollster() {
    if gpu::missing() {
        return;
    }
    assert_eq!(within(|| pollster::block_on(classes())).expect("runs"), expected());
}

#[test]
fn completes_in_smol() {
    if gpu::missing() {
        return;
    }
    let spawned = || smol::block_on(smol::spawn(classes()));
    assert_eq!(within(spawned).expect("runs"), expected());
}

#[test]
fn completes_in_tokio() {
    if gpu::missing() {
        return;
    }
    let several = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("starts");
        runtime.block_on(async {
            let tasks: Vec<_> = (0..3).map(|_| tokio::spawn(classes())).collect();
            let mut made = Vec::new();
            for task in tasks {
                made.push(task.await.expect("no panic").expect("runs"));
            }
            made
        })
    };
    let expected = expected();
    assert!(within(several).iter().all(|made| *made == expected));
    let alone = || tokio::runtime::Builder::new_current_thread().build().expect("starts").block_on(classes());
    assert_eq!(within(alone).expect("runs"), expected);
}

/// Several tasks share a device and get their own results.
#[test]
fn tasks_share_one_device() {
    if gpu::missing() {
        return;
    }
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("starts");
        runtime.block_on(async {
            let gpu = Gpu::open(&AdapterOptions::default()).await.expect("these tests need a driver");
            let task = |seed: u64| {
                let gpu = gpu.clone();
                tokio::spawn(async move {
                    let made = Classifier::untrained(&gpu, &network(), 2, Element::F32, seed).await;
                    let mut classifier = made.expect("it can be made");
                    let mut answers = Vec::new();
                    for _ in 0..5 {
                        answers.push(classifier.classify(&images(2)).await.expect("it runs"));
                    }
                    answers
                })
            };
            let tasks: Vec<_> = [1, 1, 2].map(task).into_iter().collect();
            let mut answers = Vec::new();
            for task in tasks {
                answers.push(task.await.expect("no panic"));
            }
            answers
        })
    };
    let answers = within(run);
    assert!(answers.iter().all(|each| each.iter().all(|answer| *answer == each[0])));
    assert!(answers[0] == answers[1] && answers[0] != answers[2]);
}

/// Polling by hand with a no-op waker completes too.
#[test]
fn polling_with_noop_waker_completes() {
    if gpu::missing() {
        return;
    }
    let made = within(|| {
        let mut future = std::pin::pin!(classes());
        loop {
            if let Poll::Ready(made) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return made;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(made.expect("runs"), expected());
}

/// A dropped future leaves no state that breaks later ones.
#[test]
fn dropped_futures_leave_no_state() {
    if gpu::missing() {
        return;
    }
    let made = within(|| {
        pollster::block_on(async {
            let gpu = Gpu::open(&AdapterOptions::default()).await?;
            let mut classifier = Classifier::untrained(&gpu, &network(), 2, Element::F32, 7).await?;
            let wanted = images(3);
            for _ in 0..3 {
                let mut future = std::pin::pin!(classifier.classify(&wanted));
                let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            }
            let made = classifier.classify(&wanted).await?;
            incept::Result::<Vec<Vec<usize>>>::Ok(
                made.iter().map(|row| row.iter().map(|p| p.class).collect()).collect(),
            )
        })
    });
    assert_eq!(made.expect("runs"), expected());
}

/// Required by multi-threaded executors.
#[test]
fn futures_are_send() {
    if gpu::missing() {
        return;
    }
    fn send<T: Send>(_: &T) {}
    let gpu = gpu::open();
    let (network, optimizer) = (network(), Optimizer::default());
    send(&Gpu::open(&AdapterOptions::default()));
    send(&Trainer::new(&gpu, &network, &optimizer, 2, 1, |_, _| ()));
    send(&Classifier::untrained(&gpu, &network, 2, Element::F32, 7));
    send(&gpu.roofline());
    let mut trainer =
        gpu.block_on(Trainer::new(&gpu, &network, &optimizer, 2, 1, |_, _| ())).expect("it can be made");
    let mut classifier = gpu.block_on(trainer.classifier(2)).expect("it can be made");
    let images = images(2);
    send(&classifier.classify(&images));
    let batch = Batch::of(2, &images);
    send(&classifier.probabilities(&batch));
    send(&classifier.pull());
    send(&classifier.logits());
    send(&trainer.classifier(2));
    send(&trainer.metrics(0));
    send(&trainer.state());
    let inference = InferenceGraph::new(&network, 2, Element::F32).expect("it can be made");
    let plan = Arc::new(inference.plan(&gpu, None).expect("fits"));
    send(&Session::new(&gpu, plan, None, |_, _| ()));
    let data = open("digits", &OpenOptions::default()).expect("they are built in");
    let loader = Loader::new(data.train, LoaderOptions::new(2, Preprocessing::new(INPUT))).expect("fits");
    send(&train_epoch(&mut trainer, &loader, |_| 0.01, |_| ControlFlow::Continue(())));
    let x = Array::new(&[4], vec![1.0; 4]);
    let trial = Trial::new(&Relu, &[Spec::f32([4])], 0).expect("fits");
    let implementation = trial.implementations(&gpu).remove(0);
    send(&trial.run(&gpu, &implementation, &[&x], &incept::kernel::Step::default()));
}

/// Number of polling threads in this process.
#[cfg(target_os = "linux")]
fn pollers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux lists threads in /proc");
    let name =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.flatten().map(name).filter(|name| name.trim() == "incept poll").count()
}

/// The polling thread starts when an executor waits for the device, and ends with the device. Runs
/// in a separate process, because other tests have such threads too.
#[cfg(target_os = "linux")]
#[test]
fn polling_thread_ends_with_the_device() {
    if gpu::missing() {
        return;
    }
    const CHILD: &str = "INCEPT_EXECUTORS_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let name = "polling_thread_ends_with_the_device";
        let path =
            module_path!().split_once("::").map_or(name.into(), |(_, module)| format!("{module}::{name}"));
        let program = std::env::current_exe().expect("a test is a program");
        let output = std::process::Command::new(program).args([&path, "--exact"]).env(CHILD, "1").output();
        let output = output.expect("a test can run itself");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let gpu = gpu::open();
    let mut classifier =
        gpu.block_on(Classifier::untrained(&gpu, &network(), 2, Element::F32, 7)).expect("it can be made");
    gpu.block_on(classifier.classify(&images(1))).expect("it runs");
    assert_eq!(pollers(), 0, "block_on needs no thread");
    pollster::block_on(classifier.classify(&images(1))).expect("it runs");
    assert_eq!(pollers(), 1);
    drop(classifier);
    assert_eq!(pollers(), 1, "the device still has a handle");
    drop(gpu);
    let begin = Instant::now();
    while pollers() > 0 {
        assert!(begin.elapsed() < PATIENCE, "the thread outlives the device");
        std::thread::sleep(Duration::from_millis(10));
    }
}
