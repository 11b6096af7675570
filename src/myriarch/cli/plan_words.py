"""The words of `myriarch plan`, in English and Chinese. Keys, not texts, are what programs read."""

from __future__ import annotations

import dataclasses
from typing import Final

from myriarch.cli.report_words import Language

TERMS: Final[dict[str, tuple[str, str]]] = {
    "parameters": ("parameters", "参数"),
    "active": ("active", "激活"),
    "tokens": ("tokens", "token"),
    "devices": ("devices", "卡"),
    "batch": ("batch", "批"),
    "assumed": ("assumed", "假定"),
    "split": ("split", "切分"),
    "step": ("step", "步时"),
    "mfu": ("MFU", "MFU"),
    "memory": ("memory", "显存"),
    "days": ("days", "天"),
    "effective": ("effective", "有效算力"),
    "energy": ("energy", "能耗"),
    "money": ("money", "费用"),
    "evidence": ("evidence", "证据"),
    "best": ("The best, in full", "最优方案详情"),
    "bridge": ("bridge", "组间同步"),
    "exposed": ("exposed", "未被掩盖"),
    "instead": ("instead", "次优同步"),
    "rate": ("rate", "速率"),
    "run": ("run", "全程"),
    "steps": ("steps", "步"),
    "to": ("to", "至"),
    "device_hours": ("device-hours", "卡时"),
    "faults": ("faults", "故障"),
    "mtbf": ("one every", "平均间隔"),
    "back_after": ("restored after", "恢复用时"),
    "spare_nodes": ("spare nodes", "备用节点"),
    "every": ("every", "每"),
    "nearest": ("measured", "实测近例"),
    "why": ("why", "为何"),
    "why_not": ("not the next", "为何不选次优"),
    "doubt": ("doubtful", "存疑"),
    "stage": ("stage", "流水段"),
    "fits_nowhere": ("fits nowhere", "放不下"),
    "missed": ("target missed", "目标未达"),
    "left_out": ("left out:", "未用："),
    "note": ("note", "注"),
}

PARTS: Final[dict[str, tuple[str, str]]] = {
    "matmul": ("products", "矩阵乘"),
    "attention": ("attention", "注意力"),
    "stream": ("streaming", "访存算子"),
    "recompute": ("recompute", "重计算"),
    "launch": ("launch", "下发"),
    "tp": ("tp", "TP 通信"),
    "pp": ("pp", "PP 通信"),
    "cp": ("cp", "CP 通信"),
    "ep": ("ep", "EP 通信"),
    "dp": ("dp", "DP 通信"),
    "bubble": ("bubble", "流水空泡"),
    "optimizer": ("optimizer", "优化器"),
    "offload": ("offload", "卸载"),
    "other": ("waiting and fixed", "等待与固定开销"),
    "weights": ("weights", "权重"),
    "gradients": ("gradients", "梯度"),
    "activations": ("activations", "激活值"),
    "logits": ("logits", "logits"),
    "workspace": ("workspace", "工作区"),
    "fragments": ("fragments", "碎片"),
    "driver": ("driver", "驱动"),
}


@dataclasses.dataclass(frozen=True)
class Words:
    """Looked up in one language; an unknown key is its own word."""

    language: Language

    def __call__(self, key: str) -> str:
        return self._of(TERMS, key)

    def part(self, key: str) -> str:
        """A part of a step, or a kind of memory."""
        return self._of(PARTS, key)

    def _of(self, table: dict[str, tuple[str, str]], key: str) -> str:
        english, chinese = table.get(key, (key, key))
        return chinese if self.language == "zh" else english


def words_of(language: Language) -> Words:
    """The words of a language."""
    return Words(language)
