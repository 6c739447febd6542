//! `twinlog token create`: a new bearer token, shown once, and the line that opens the daemon's listeners for it.
//!
//! The only place of the program that prints a secret: nobody has it before, and nothing keeps it here.

use super::operator::AnswerOutput;
use super::{FAILED, USAGE, refuse};
use crate::admin::role::Role;
use crate::admin::tokens;
use clap::{Args, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a bearer token for the daemon's listeners; it is shown once.
    Create(CreateTokenArgs),
}

#[derive(Debug, Args)]
pub struct CreateTokenArgs {
    /// Whose it is, as the audit will call him.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// A viewer asks, an operator also changes.
    #[arg(long, value_enum)]
    pub role: Role,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    pub output: AnswerOutput,
}

pub fn token(TokenCommand::Create(arguments): &TokenCommand) -> ExitCode {
    let (name, role) = (&arguments.name, arguments.role);
    if !tokens::is_token_name(name) {
        let why =
            format!("{name:?} is no name: it has 1 to 64 letters, digits, dots, hyphens and underscores");
        return refuse(USAGE, &why);
    }
    let Some(made) = tokens::create(name, role) else {
        return refuse(FAILED, &"the kernel gives no random bytes; nothing was made");
    };
    let (token, line) = (&made.token, &made.line);
    match arguments.output {
        AnswerOutput::Table => {
            println!("token, shown once; keep it in a file that only its user can read:\n{token}");
            println!("line to add to admin.tokens.file of the daemon:\n{line}");
        }
        AnswerOutput::Json => {
            println!("{}", serde_json::json!({ "name": name, "role": role, "token": token, "line": line }));
        }
    }
    ExitCode::SUCCESS
}
