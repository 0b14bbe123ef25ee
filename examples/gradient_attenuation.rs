//! How much of the gradient reaches the first agent of a chain, when messages are overwritten and when they are concatenated:
//! `cargo run --release --example gradient_attenuation -- MODEL_FOLDER OUTPUT_FOLDER [LONGEST_CHAIN SEEDS UPDATES]`
//!
//! The task needs the first message: the first agent alone sees which of eight tokens the last one must name. For chains of 2 to 8
//! agents, before training (gates at 0.5) and after it, this measures the norm of ∂loss/∂(message of agent j), the ratio of the first to
//! the last upstream agent, and, for states that are overwritten, the largest singular value of ∂c_{j+1}/∂c_j; for three seeds. Writes
//! `gradient_attenuation.csv` and `gradient_attenuation.svg`.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use diffmas::agents::{
    AdapterScope, AdapterSet, AgentConfig, AgentInput, ChannelKind, OverwriteUpdate, PaddedIds, TeamBatch,
    TeamConfig, TeamModel,
};
use diffmas::backbone::{Backbone, ModelFiles, Parameters, Precision};
use diffmas::backends::{Autodiff, BackendKind, Job, ModelBackend};
use diffmas::checkpoint::{AdapterConfig, TargetModules};
use diffmas::communication::{Message, ReceivedMessages, Vectors};
use diffmas::text::TokenizedSample;
use diffmas::training::{TrainConfig, Trainer};
use nalgebra::DMatrix;
use plotters::prelude::*;

/// Tokens of which the first agent sees one.
const SECRETS: u32 = 8;
const VECTORS: usize = 2;
const WIDTH: usize = 16;

/// One row of the table.
pub struct Row {
    pub carrier: &'static str,
    /// Seed of the adapter and of what the channel learns.
    pub seed: u64,
    pub trained: bool,
    /// Agents of the chain, the final one counted.
    pub agents: usize,
    pub loss: f64,
    /// ‖∂loss/∂message‖ of each upstream agent.
    pub norms: Vec<f64>,
    /// Largest singular value of ∂c_{j+1}/∂c_j, by j; empty where nothing is overwritten.
    pub jacobians: Vec<f64>,
}

impl Row {
    /// ‖g_1‖ / ‖g_{K−1}‖
    pub fn ratio(&self) -> f64 {
        self.norms[0] / self.norms[self.norms.len() - 1]
    }
}

const CARRIERS: [(&str, ChannelKind, OverwriteUpdate); 4] = [
    ("overwrite, tanh", ChannelKind::OVERWRITE, OverwriteUpdate::Tanh),
    ("overwrite, gated", ChannelKind::OVERWRITE, OverwriteUpdate::Gated),
    ("concatenate vectors", ChannelKind::VECTORS, OverwriteUpdate::Tanh),
    ("concatenate trace", ChannelKind::TRACE, OverwriteUpdate::Tanh),
];

/// The measurement.
pub struct Measure {
    pub model: PathBuf,
    /// Lengths of the chains.
    pub agents: Vec<usize>,
    pub seeds: Vec<u64>,
    /// Updates of training.
    pub updates: usize,
}

impl Job for Measure {
    type Output = diffmas::Result<Vec<Row>>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let backbone = ModelFiles::open(&self.model)?.load::<B>(&device, Precision::default())?;
        let mut rows = Vec::new();
        for (carrier, channel, update) in CARRIERS {
            let chains =
                self.agents.iter().flat_map(|&agents| self.seeds.iter().map(move |&seed| (agents, seed)));
            for (agents, seed) in chains {
                let mut trainer = chain(&backbone, agents, channel, update, seed)?;
                for trained in [false, true] {
                    if trained {
                        for step in 0..self.updates {
                            trainer.update(&[batch(agents, step as u32 * 16, 16)], 3e-3)?;
                        }
                    }
                    let samples = batch(agents, 1 << 20, 32);
                    let got = trainer.gradients(std::slice::from_ref(&samples));
                    let norms = got.message_norms().into_iter().map(Option::unwrap_or_default);
                    let jacobians = if channel.replaces {
                        jacobians(trainer.model(), trainer.parameters())
                    } else {
                        Vec::new()
                    };
                    let (loss, norms) = (got.loss, norms.collect());
                    let row = Row { carrier, seed, trained, agents, loss, norms, jacobians };
                    eprintln!(
                        "{carrier}, {agents} agents, seed {seed}, trained {trained}: loss {:.3}, ratio {:.2e}",
                        row.loss,
                        row.ratio()
                    );
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }
}

/// A chain with fresh adapters and gates at 0.5.
fn chain<B: ModelBackend>(
    backbone: &Backbone<B>,
    agents: usize,
    channel: ChannelKind,
    update: OverwriteUpdate,
    seed: u64,
) -> diffmas::Result<Trainer<B>> {
    let config = TeamConfig {
        channel: channel.into(),
        overwrite_update: update,
        num_vectors: VECTORS,
        vector_dim: WIDTH,
        vector_heads: 2,
        cross_attention_layers: Some((0..backbone.layers.len()).collect()),
        latent_steps: 2,
        agents: (0..agents).map(|j| AgentConfig::named(format!("agent{j}"))).collect(),
        ..TeamConfig::default()
    };
    config.validate()?;
    let targets = ["q_proj", "v_proj", "o_proj", "down_proj"].map(String::from).to_vec();
    let lora = AdapterConfig::new(4, 8.0, TargetModules::List(targets));
    let adapters = AdapterSet::new(AdapterScope::Shared, &lora, &config, &backbone.config)?;
    let model = TeamModel::new(config, adapters, backbone.clone());
    let open = |(name, value): (&String, &Tensor<B, 2>)| {
        let gate = name.ends_with(".gate") && name.starts_with("cross_attention");
        (name.clone(), if gate { value.clone() + 0.5 } else { value.clone() })
    };
    let opened = model.init(seed).iter().map(open).collect();
    Trainer::new(TrainConfig::default(), model, opened)
}

/// `n` samples: the first agent's prompt holds the secret, everyone's holds tokens that say nothing.
fn batch(agents: usize, seed: u32, n: u32) -> TeamBatch {
    let noise = |row: u32, j: usize, i: u32| {
        32 + (row.wrapping_mul(2_654_435_761) >> 8).wrapping_add(j as u32 * 17 + i * 5) % 64
    };
    let sample = |row: u32| {
        let secret = 8 + (row.wrapping_mul(2_246_822_519) >> 16) % SECRETS;
        let mut prompts: Vec<Vec<u32>> =
            (0..agents).map(|j| (0..4).map(|i| noise(row, j, i)).collect()).collect();
        prompts[0][2] = secret;
        TokenizedSample {
            line: row as usize,
            prompts,
            target: Some(vec![secret]),
            ..TokenizedSample::default()
        }
    };
    let samples: Vec<_> = (seed..seed + n).map(sample).collect();
    TeamBatch::new(&samples.iter().collect::<Vec<_>>())
}

/// The largest singular value of ∂c_{j+1}/∂c_j of one sample, for each j: the state is put in once for each of its numbers, and row i of
/// the batch is asked for the gradient of number i.
fn jacobians<B: ModelBackend>(model: &TeamModel<B>, parameters: &Parameters<B>) -> Vec<f64> {
    let outer = model.to_autodiff();
    let team = outer.bind(&parameters.leaves(|_| false));
    let agents = team.layout.config.agents.len();
    let size = VECTORS * WIDTH;
    let one = batch(agents, 1 << 21, 1);
    let inputs = one.prompts.iter().flat_map(AgentInput::ids);
    let many =
        TeamBatch::of_inputs(inputs.map(|p| PaddedIds::left(&vec![&p.ids[..]; size]).into()).collect());
    let plan = team.plan(&many);
    let device = model.backbone.device();
    let mut state: Option<Tensor<B, 3>> = None;
    let mut norms = Vec::new();
    for j in 0..agents - 1 {
        let before = state.take().map(|s| Tensor::<Autodiff<B>, 3>::from_inner(s).require_grad());
        let found = before.iter().map(|values| Message {
            sender: j - 1,
            segment: None,
            vectors: Some(Vectors { values: values.clone(), valid: vec![true; size * VECTORS] }),
        });
        let received = ReceivedMessages { messages: found.collect(), start: plan.agents[j].start.clone() };
        let rollout = team.roll_out(&[j], &many, &plan, &[team.read(&received)]).remove(0);
        let after = team.send(&rollout, &received).vectors.expect("a state is vectors").values;
        if let Some(before) = before {
            let each = Tensor::<B, 2>::eye(size, &device).reshape([size, VECTORS, WIDTH]);
            let grads = (after.clone() * Tensor::from_inner(each)).sum().backward();
            let rows: Vec<f64> = before
                .grad(&grads)
                .expect("an agent reads the state before it")
                .into_data()
                .iter::<f64>()
                .collect();
            norms.push(DMatrix::from_row_slice(size, size, &rows).singular_values().max());
        }
        state = Some(after.inner());
    }
    norms
}

/// The table as CSV: one line a message.
pub fn csv(rows: &[Row]) -> String {
    let mut text = "carrier,seed,trained,agents,loss,agent,gradient_norm,ratio_first_to_last,jacobian_norm\n"
        .to_string();
    for row in rows {
        for (j, norm) in row.norms.iter().enumerate() {
            let jacobian = row.jacobians.get(j).map_or(String::new(), |x| format!("{x:.6e}"));
            text += &format!(
                "\"{}\",{},{},{},{:.6},{},{norm:.6e},{:.6e},{jacobian}\n",
                row.carrier,
                row.seed,
                row.trained,
                row.agents,
                row.loss,
                j + 1,
                row.ratio()
            );
        }
    }
    text
}

/// The ratio against the length of the chain, before and after training: a point for each seed, a line through their medians.
pub fn plot(rows: &[Row], path: &Path) -> Result<(), Box<dyn StdError>> {
    let area = SVGBackend::new(path, (960, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let ratios = || rows.iter().filter(|r| r.agents > 2 && r.ratio() > 0.0).map(Row::ratio);
    let (low, high) = (ratios().fold(0.5, f64::min) / 2.0, ratios().fold(2.0, f64::max) * 2.0);
    let longest = rows.iter().map(|r| r.agents).max().unwrap_or(8) as f64;
    for (trained, area) in [false, true].into_iter().zip(area.split_evenly((1, 2))) {
        let title = if trained { "after training" } else { "untrained, gates at 0.5" };
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(2.0..longest, (low..high).log_scale())?;
        let y_desc = "‖g₁‖ / ‖g_{K−1}‖";
        chart
            .configure_mesh()
            .x_desc("agents K")
            .y_desc(y_desc)
            .x_labels(7)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0e}"))
            .draw()?;
        for (i, (carrier, ..)) in CARRIERS.iter().enumerate() {
            let color = Palette99::pick(i).to_rgba();
            let mut seeds: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
            for row in
                rows.iter().filter(|r| r.carrier == *carrier && r.trained == trained && r.ratio() > 0.0)
            {
                seeds.entry(row.agents).or_default().push(row.ratio());
            }
            let points = seeds.iter().flat_map(|(&k, ratios)| ratios.iter().map(move |&r| (k as f64, r)));
            chart.draw_series(points.map(|at| Circle::new(at, 3, color.filled())))?;
            let medians = seeds.iter_mut().map(|(&k, ratios)| {
                ratios.sort_by(f64::total_cmp);
                (k as f64, ratios[ratios.len() / 2])
            });
            chart
                .draw_series(LineSeries::new(medians, color.stroke_width(2)))?
                .label(*carrier)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    area.present()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn StdError>> {
    let args: Vec<String> = std::env::args().collect();
    let (model, output, [longest, seeds, updates]) = match &args[1..] {
        [model, output] => (model, output, [8, 3, 300]),
        [model, output, longest, seeds, updates] => {
            (model, output, [longest.parse()?, seeds.parse()?, updates.parse()?])
        }
        _ => {
            return Err(
                "usage: gradient_attenuation MODEL_FOLDER OUTPUT_FOLDER [LONGEST_CHAIN SEEDS UPDATES]".into(),
            );
        }
    };
    let (agents, seeds) = ((2..=longest).collect(), (1..=seeds as u64).collect());
    let job = Measure { model: model.into(), agents, seeds, updates };
    let rows = BackendKind::default_kind()?.run(None, job)??;
    let output = Path::new(output);
    std::fs::create_dir_all(output)?;
    std::fs::write(output.join("gradient_attenuation.csv"), csv(&rows))?;
    plot(&rows, &output.join("gradient_attenuation.svg"))
}
