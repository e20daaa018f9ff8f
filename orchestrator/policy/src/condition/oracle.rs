//! The interpreter of the cel crate: whatever a test evaluates is compared with it.

use std::sync::{Arc, LazyLock};

use cel::common::types::{BOOL_TYPE, CelBool};
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError, Value};

use super::{Condition, values};
use crate::view::{Held, View};

/// The functions of CEL and ours, and its macros.
pub(super) static FULL: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(with_ours(Env::stdlib())));

/// The same answer, or an error from both.
#[track_caller]
pub(super) fn compare(condition: &Condition, view: &View<'_>, held: &Held) {
    let mut context = Context::with_env(Arc::clone(&FULL));
    // A group that cannot be told has been an error already.
    let Ok(groups) = view.groups() else { return };
    values::add(&mut context, view, &groups);
    let interpreted = Value::resolve_val(&condition.interpreted, &context);
    let interpreted = interpreted.ok().and_then(|value| value.downcast_ref::<CelBool>().map(|value| *value.inner()));
    assert_eq!(held.as_ref().ok(), interpreted.as_ref(), "{condition}: {held:?}");
}

fn with_ours(mut env: Env) -> Env {
    fn not<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
        match arguments.first().and_then(|argument| argument.downcast_ref::<CelBool>()) {
            Some(value) => Ok(CowVal::owned(value.negate())),
            None => Err(ExecutionError::function_error("not", "takes one truth value")),
        }
    }
    env.add_overload("not", "not_bool", vec![BOOL_TYPE], not).unwrap();
    env.add_extension(cel::extensions::strings).unwrap();
    env
}
