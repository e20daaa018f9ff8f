//! A story's file: Markdown with a policy and a story in fences.

/// The parts of a file that are played.
pub struct Page {
    pub policy: String,
    /// What comes in, line by line.
    pub lines: Vec<String>,
    before: String,
    after: String,
}

const POLICY: &str = "```yaml\n";
const STORY: &str = "```text\n";
const END: &str = "```\n";

impl Page {
    pub fn read(text: &str) -> Result<Self, String> {
        let (_, rest) = text.split_once(POLICY).ok_or("there is no ```yaml with a policy")?;
        let (policy, _) = rest.split_once(END).ok_or("the policy has no end")?;
        let (before, rest) = text.split_once(STORY).ok_or("there is no ```text with a story")?;
        let (story, after) = rest.split_once(END).ok_or("the story has no end")?;
        let is_input = |line: &&str| !line.is_empty() && !line.starts_with(' ');
        let lines = story.lines().filter(is_input).map(str::to_owned).collect();
        Ok(Self { policy: policy.to_owned(), lines, before: before.to_owned(), after: after.to_owned() })
    }

    /// The file with what came out under each line.
    pub fn with(&self, told: &[(String, Vec<String>)]) -> String {
        let mut story = String::new();
        for (line, outcomes) in told {
            story.push_str(&format!("{line}\n"));
            outcomes.iter().for_each(|outcome| story.push_str(&format!("    {outcome}\n")));
        }
        format!("{}{STORY}{story}{END}{}", self.before, self.after)
    }
}
