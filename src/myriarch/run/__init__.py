"""The acting shells: controller, node agents, the local engine and the launcher behind `myriarch train`.

    launcher                    `launcher`, `local` (the engine), `progress`
      controller                `controller`, `server`, `decider`, `outbox`, `journal_file`, `ledger_store`
      agent, one per node       `agent`, `link`, `zygote`, `workers`, `fetch`, `replicate`, `drains`, `heartbeat`, `quota`

They observe, write down, do what `control` says, and decide nothing.
"""
