//! A server that classifies uploaded images: requests are decoded in parallel and classified in
//! batches.
//!
//! ```text
//! cargo run --release --example server -- [weights.safetensors]
//! curl --data-binary @cat.jpg http://127.0.0.1:8080/classify
//! ```
//!
//! The default weights are those that come with the crate, for the ten classes of CIFAR-10. The
//! response is JSON, the most probable class first: `[{"class":"cat","probability":0.98}, ...]`.
//! Uploads that are not images get status 422, and those above 8 MiB 413, each with a message.

use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use incept::checkpoint::Checkpoint;
use incept::data::{Image, Preprocessing};
use incept::device::{Device, DeviceOptions};
use incept::infer::{Classifier, Prediction};
use incept::tensor::Element;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// Maximum size of an upload in bytes.
const MAX_UPLOAD: usize = 8 << 20;
/// Maximum batch size.
const BATCH: usize = 8;
/// Number of classes in a response.
const TOP: usize = 5;

/// A decoded image, and the channel for its classes.
struct Job {
    image: Vec<f32>,
    answer: oneshot::Sender<incept::Result<Vec<Prediction>>>,
}

/// State shared by all requests.
struct Model {
    preprocessing: Preprocessing,
    classes: Vec<String>,
    jobs: mpsc::Sender<Job>,
}

/// The response to a failed request: status and message.
type Refusal = (StatusCode, String);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let checkpoint = match std::env::args_os().nth(1) {
        Some(path) => Checkpoint::load(Path::new(&path))?,
        None => Checkpoint::included()?,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!("curl --data-binary @cat.jpg http://{}/classify", listener.local_addr()?);
    axum::serve(listener, router(checkpoint).await?).await?;
    Ok(())
}

/// The routes of the server, with the network on the fastest device.
async fn router(checkpoint: Checkpoint) -> incept::Result<Router> {
    let Checkpoint { state, metadata } = checkpoint;
    let device = Device::open(&DeviceOptions::default()).await?.device;
    let classifier =
        Classifier::new(&device, &metadata.network, BATCH, Element::F32, &state.averaged()).await?;
    // Maximum number of waiting requests; further ones are rejected and may retry.
    let (jobs, waiting) = mpsc::channel(4 * BATCH);
    tokio::spawn(work(classifier, waiting));
    let model = Model { preprocessing: metadata.preprocessing, classes: metadata.classes, jobs };
    let router = Router::new().route("/classify", post(classify)).layer(DefaultBodyLimit::max(MAX_UPLOAD));
    Ok(router.with_state(Arc::new(model)))
}

/// Classifies queued images in batches until the server stops.
async fn work(mut classifier: Classifier, mut waiting: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut jobs, BATCH).await > 0 {
        let (images, answers): (Vec<_>, Vec<_>) = jobs.drain(..).map(|job| (job.image, job.answer)).unzip();
        // Closed connections are skipped. If a batch fails, its images are classified one by one,
        // so that an image whose activations overflow fails alone.
        match classifier.classify(&images).await {
            Ok(all) => answers.into_iter().zip(all).for_each(|(answer, top)| drop(answer.send(Ok(top)))),
            Err(_) => {
                for (image, answer) in images.into_iter().zip(answers) {
                    let top = classifier.classify(&[image]).await.map(|mut all| all.remove(0));
                    drop(answer.send(top));
                }
            }
        }
    }
}

/// Classifies the image in the body of a request.
async fn classify(State(model): State<Arc<Model>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let refuse = |status: StatusCode, message: &dyn ToString| (status, message.to_string());
    let shared = Arc::clone(&model);
    // Decoding takes milliseconds of CPU time, which would block other tasks.
    let decode = move || Image::decode(&body).map(|image| shared.preprocessing.apply(&image));
    let decoded = tokio::task::spawn_blocking(decode).await;
    let decoded = decoded.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, &e))?;
    let image = decoded.map_err(|reason| refuse(StatusCode::UNPROCESSABLE_ENTITY, &reason))?;
    let (answer, answered) = oneshot::channel();
    let busy = |_| refuse(StatusCode::SERVICE_UNAVAILABLE, &"too many waiting requests: try again");
    model.jobs.try_send(Job { image, answer }).map_err(busy)?;
    let top = answered.await.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, &e))?;
    let top = top.map_err(|e| refuse(status_of(&e), &e))?;
    let class = |p: &Prediction| json!({ "class": model.classes[p.class], "probability": p.probability });
    Ok(Json(top.iter().take(TOP).map(class).collect()))
}

/// The status of an error: the client's or the server's fault.
fn status_of(error: &incept::Error) -> StatusCode {
    match error {
        incept::Error::Tensor { .. } | incept::Error::Format { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        incept::Error::OutOfMemory { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    use super::*;

    /// Uploads a body; returns status and body of the response.
    fn upload(address: SocketAddr, body: &[u8]) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(address)?;
        let head = format!(
            "POST /classify HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        // A server that rejects a body may not read all of it.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.into())))
    }

    /// A PNG in one color.
    fn image(color: [u8; 3]) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let pixels = image::RgbImage::from_pixel(40, 30, image::Rgb(color));
        pixels.write_to(&mut bytes, image::ImageFormat::Png).expect("a PNG can be written");
        bytes.into_inner()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn several_requests_at_once_get_their_own_answers() {
        let checkpoint = Checkpoint::included().expect("the weights are there");
        let router = router(checkpoint).await.expect("the tests need a driver");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move { axum::serve(listener, router).await });

        let colors: Vec<[u8; 3]> = (0..12).map(|i| [20 * i, 255 - 20 * i, 128]).collect();
        let ask = |body: Vec<u8>| tokio::task::spawn_blocking(move || upload(address, &body));
        let mut alone = Vec::new();
        for color in &colors {
            alone.push(ask(image(*color)).await.expect("asks").expect("answers"));
        }
        let asked: Vec<_> = colors.iter().map(|color| ask(image(*color))).collect();
        for (asked, alone) in asked.into_iter().zip(alone) {
            let (status, body) = asked.await.expect("asks").expect("answers");
            assert_eq!((status, &body), (200, &alone.1));
            let classes: Vec<Value> = serde_json::from_str(&body).expect("JSON");
            assert!(classes.len() == TOP && classes[0]["probability"].as_f64() > Some(0.1), "{body}");
        }

        let (status, message) = ask(b"no image".to_vec()).await.expect("asks").expect("answers");
        assert!(status == 422 && message.contains("image"), "{status} {message}");
        let (status, message) = ask(vec![0; MAX_UPLOAD + 1]).await.expect("asks").expect("answers");
        assert!(status == 413 || status == 0, "{status} {message}");
    }
}
