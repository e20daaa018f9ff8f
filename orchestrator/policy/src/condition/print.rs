//! An expression written back from its tree, with every bracket, so that a reader sees what was understood.

use cel::IdedExpr;
use cel::common::ast::operators::{CONDITIONAL, IN, INDEX, LOGICAL_AND, LOGICAL_NOT, LOGICAL_OR, NEGATE};
use cel::common::ast::{CallExpr, Expr, LiteralValue};

pub(super) fn print(expression: &IdedExpr) -> String {
    let mut out = String::new();
    write(expression, &mut out);
    out
}

fn write(node: &IdedExpr, out: &mut String) {
    match &node.expr {
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(value) => out.push_str(&value.inner().to_string()),
            LiteralValue::Int(value) => out.push_str(&value.inner().to_string()),
            LiteralValue::Double(value) => out.push_str(&format!("{:?}", value.inner())),
            LiteralValue::String(value) => out.push_str(&format!("{:?}", value.inner())),
            other => out.push_str(&format!("{other:?}")),
        },
        Expr::Ident(name) => out.push_str(name),
        Expr::Select(select) => {
            operand(&select.operand, out);
            out.push('.');
            out.push_str(&select.field);
        }
        Expr::List(list) => {
            out.push('[');
            arguments(&list.elements, out);
            out.push(']');
        }
        Expr::Call(call) => self::call(call, out),
        // Refused by the check.
        _ => out.push('…'),
    }
}

fn call(call: &CallExpr, out: &mut String) {
    match (call.func_name.as_str(), &call.target, call.args.as_slice()) {
        (LOGICAL_NOT, None, [argument]) => {
            out.push_str("not(");
            write(argument, out);
            out.push(')');
        }
        (NEGATE, None, [argument]) => {
            out.push('-');
            operand(argument, out);
        }
        (INDEX, None, [list, index]) => {
            operand(list, out);
            out.push('[');
            write(index, out);
            out.push(']');
        }
        (CONDITIONAL, None, [condition, yes, no]) => {
            operand(condition, out);
            out.push_str(" ? ");
            operand(yes, out);
            out.push_str(" : ");
            operand(no, out);
        }
        (name, None, [left, right]) if sign(name).is_some() => {
            // `a && b && c` needs no bracket; every mixture gets one.
            for (side, before) in [(left, ""), (right, sign(name).unwrap_or_default())] {
                if !before.is_empty() {
                    out.push(' ');
                    out.push_str(before);
                    out.push(' ');
                }
                let same = [LOGICAL_AND, LOGICAL_OR].contains(&name)
                    && matches!(&side.expr, Expr::Call(inner) if inner.func_name == name);
                if same { write(side, out) } else { operand(side, out) }
            }
        }
        (name, target, rest) => {
            if let Some(target) = target {
                operand(target, out);
                out.push('.');
            }
            out.push_str(name);
            out.push('(');
            arguments(rest, out);
            out.push(')');
        }
    }
}

fn operand(node: &IdedExpr, out: &mut String) {
    let between = matches!(&node.expr, Expr::Call(call) if sign(&call.func_name).is_some() || call.func_name == CONDITIONAL);
    if between {
        out.push('(');
    }
    write(node, out);
    if between {
        out.push(')');
    }
}

fn arguments(arguments: &[IdedExpr], out: &mut String) {
    for (at, argument) in arguments.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write(argument, out);
    }
}

/// The sign between two, as `&&` of `_&&_`.
fn sign(name: &str) -> Option<&str> {
    if name == IN {
        return Some("in");
    }
    name.strip_prefix('_')?.strip_suffix('_').filter(|sign| !sign.contains('_') && !sign.is_empty())
}
