"""The acting shells: controller, node agents, the local engine and the launcher behind `myriarch train`.

    launcher                    `launcher`, `local` (the engine), `progress`
      controller                `controller`, `server`, `decider`, `outbox`, `journal_file`, `ledger_store`
      agent, one per node       `agent`, `link`, `door`, `zygote`, `worker`, `fetch`, `replicate`, `drains`, `quota`

They observe, write down, do what `control` says, and decide nothing.
"""
