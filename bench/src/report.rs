//! Rows of a Markdown table: what, figure, limit, met or missed.

/// The rows gathered so far.
pub(crate) struct Report(Vec<[String; 4]>);

impl Report {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// A row with a goal.
    pub(crate) fn goal(&mut self, what: &str, figure: String, goal: &str, met: bool) {
        eprintln!("{what}: {figure} (goal {goal})");
        let verdict = if met { "met" } else { "**missed**" };
        self.0.push([what.into(), figure, goal.into(), verdict.into()]);
    }

    /// A row for comparison.
    pub(crate) fn row(&mut self, what: &str, figure: String) {
        eprintln!("{what}: {figure}");
        self.0.push([what.into(), figure, String::new(), String::new()]);
    }

    pub(crate) fn print(&self) {
        println!("Machine: {}\n", machine());
        println!("| what | figure | goal | |\n| --- | --- | --- | --- |");
        for [what, figure, goal, verdict] in &self.0 {
            println!("| {what} | {figure} | {goal} | {verdict} |");
        }
    }
}

/// Cores, processor and kernel of this machine.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(':').nth(1));
    format!(
        "{cores} cores, {}, Linux {}",
        model.unwrap_or("unknown").trim(),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// The middle value.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value below which `part` of them lie.
pub(crate) fn percentile(values: &mut [u64], part: f64) -> u64 {
    values.sort_unstable();
    let at = ((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0)
}

/// A count with thousands marked.
pub(crate) fn thousands(value: f64) -> String {
    if value >= 1e6 { format!("{:.2} M", value / 1e6) } else { format!("{:.1} k", value / 1e3) }
}
