//! Random expressions: each is answered as the interpreter of the cel crate answers it, which is compared wherever tests evaluate one.

use super::*;

/// An expression of each type; `item` is a name for an entry that is walked.
struct Writer<'d> {
    dice: &'d mut Dice,
    item: bool,
}

impl Writer<'_> {
    fn truth(&mut self, depth: usize) -> String {
        if depth == 0 {
            let leaves = ["true", "false", "detection.has_confidence", "\"tier\" in host.label", "host.level == \"full\""];
            return self.dice.of(&leaves).to_owned();
        }
        let depth = depth - 1;
        match self.dice.below(14) {
            0 | 1 => format!("({} && {})", self.truth(depth), self.truth(depth)),
            2 | 3 => format!("({} || {})", self.truth(depth), self.truth(depth)),
            4 => format!("not({})", self.truth(depth)),
            5 => format!("({} ? {} : {})", self.truth(depth), self.truth(depth), self.truth(depth)),
            6 | 7 => {
                let sign = self.dice.of(&["==", "!=", "<", "<=", ">", ">="]);
                format!("{} {sign} {}", self.number(depth), self.number(depth))
            }
            8 => format!("{} {} {}", self.text(depth), self.dice.of(&["==", "!=", "<", ">="]), self.text(depth)),
            9 => format!("{} in {}", self.text(depth), self.texts()),
            10 => format!("{} in [{}, {}]", self.int(depth), self.int(depth), self.int(depth)),
            11 => {
                let find = self.dice.of(&["contains", "startsWith", "endsWith"]);
                format!("{}.{find}({})", self.text(depth), self.text(depth))
            }
            12 if !self.item => {
                let walk = self.dice.of(&["exists", "all", "exists_one"]);
                let list = self.texts();
                self.item = true;
                let body = self.truth(depth);
                self.item = false;
                format!("{list}.{walk}(x, {body})")
            }
            _ => format!("{} == {}", self.texts(), self.texts()),
        }
    }

    fn number(&mut self, depth: usize) -> String {
        match self.dice.below(5) {
            0 => self.dice.of(&["1.5", "-0.5", "85.0", "(1.5 + 2.5)", "(1.0 / 0.0)"]).to_owned(),
            _ => self.int(depth),
        }
    }

    fn int(&mut self, depth: usize) -> String {
        if depth == 0 {
            let leaves = ["0", "7", "85", "-3", "9223372036854775807", "detection.confidence", "detection.severity_rank"];
            return self.dice.of(&leaves).to_owned();
        }
        let depth = depth - 1;
        match self.dice.below(5) {
            0 | 1 => format!("({} {} {})", self.int(depth), self.dice.of(&["+", "-", "*", "/", "%"]), self.int(depth)),
            2 => format!("int({})", self.text(depth)),
            3 => format!("{}.size()", self.text(depth)),
            _ => format!("size({})", self.texts()),
        }
    }

    fn text(&mut self, depth: usize) -> String {
        if depth == 0 {
            if self.item && self.dice.below(2) == 0 {
                return "x".to_owned();
            }
            let leaves = [
                "\"\"",
                "\"T1486\"",
                "\"é\"",
                "\"7\"",
                "source",
                "host.name",
                "host.label.tier",
                "host.label[\"absent\"]",
                "detection.rule.name",
                "detection.rule.id",
                "detection.product",
                "detection.indicator.value",
                "now",
                "detection.host.hostname",
                "detection.observed_at",
                "detection.incident",
            ];
            return self.dice.of(&leaves).to_owned();
        }
        let depth = depth - 1;
        match self.dice.below(5) {
            0 => format!("({} + {})", self.text(depth), self.text(depth)),
            1 => format!("{}.lowerAscii()", self.text(depth)),
            2 => format!("string({})", self.number(depth)),
            3 => format!("{}[{}]", self.texts(), self.dice.of(&["0", "1", "2", "-1"])),
            _ => format!("host.label[{}]", self.text(depth)),
        }
    }

    fn texts(&mut self) -> String {
        let lists = [
            "detection.techniques",
            "host.roles",
            "detection.host.ips",
            "host.groups",
            "[\"router\", \"7\"]",
            "[source, host.id]",
        ];
        self.dice.of(&lists).to_owned()
    }
}

#[test]
fn random_expressions_are_answered_as_the_interpreter_does() {
    let mut dice = Dice(11);
    let (mut read, mut held, mut failed) = (0, 0, 0);
    for round in 0..3000 {
        let depth = 1 + round % 4;
        let expression = Writer { dice: &mut dice, item: false }.truth(depth);
        let text = format!(
            "version: 1\ngroups: {{ pay: {{ match: {{ host.label.tier: payment }} }} }}\nrules:\n  - name: r\n    when: |\n      {expression}\n    then: isolate\n{REST}"
        );
        // What is too deep for a policy is not compared.
        let Ok(policy) = Policy::parse(&text) else { continue };
        read += 1;
        for detection in [detection(), bare()] {
            match judge(&policy, &detection).outcome {
                Outcome::Isolate { .. } => held += 1,
                Outcome::RuleError(_) => failed += 1,
                _ => {}
            }
        }
    }
    assert!(read > 2000 && held > 500 && failed > 200, "{read} read, {held} held, {failed} failed");
}
