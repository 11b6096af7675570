"""The words of `myriarch simulate`, in English and Chinese. Keys, not texts, are what programs read."""

from __future__ import annotations

import math
import re
from typing import Final

from myriarch.cli.report_words import Language, by_pattern
from myriarch.simulate.scenario_faults import FaultIntake
from myriarch.simulate.scenario_jobs import Intake
from myriarch.simulate.tuning import TuningReport

TERMS: Final[dict[str, dict[Language, str]]] = {
    "jobs": {"en": "jobs", "zh": "作业"},
    "devices": {"en": "devices", "zh": "卡"},
    "seed": {"en": "seed", "zh": "种子"},
    "seeds": {"en": "seeds", "zh": "个种子"},
    "policy": {"en": "policy", "zh": "策略"},
    "all": {"en": "all", "zh": "全部"},
    "tenant": {"en": "tenant", "zh": "租户"},
    "kind": {"en": "kind", "zh": "类型"},
    "pool": {"en": "pool", "zh": "池"},
    "who": {"en": "who", "zh": "对象"},
    "ended": {"en": "ended", "zh": "完成"},
    "device_hours": {"en": "device-h", "zh": "卡时"},
    "wait": {"en": "wait", "zh": "平均等待"},
    "wait_p95": {"en": "p95", "zh": "P95"},
    "completion": {"en": "JCT", "zh": "平均完成时间"},
    "completion_p95": {"en": "p95", "zh": "P95"},
    "slowdown": {"en": "slowdown", "zh": "减速比"},
    "late": {"en": "late", "zh": "超期"},
    "energy": {"en": "energy", "zh": "能耗"},
    "carbon": {"en": "CO2", "zh": "CO2"},
    "money": {"en": "cost", "zh": "费用"},
    "faults": {"en": "faults of nodes", "zh": "节点故障"},
    "training": {"en": "one training", "zh": "单个训练"},
    "choices": {"en": "decisions", "zh": "决策"},
    "tiers": {"en": "state from", "zh": "状态来源"},
    "fleet": {"en": "fleet", "zh": "机群"},
    "queue": {"en": "queue", "zh": "队列"},
    "utilisation": {"en": "utilisation", "zh": "利用率"},
    "fragmented": {"en": "fragmented", "zh": "碎片"},
    "fairness": {"en": "fairness (Jain)", "zh": "公平性（Jain）"},
    "rho": {"en": "finish-time fairness p95", "zh": "完成时间公平性 P95"},
    "waiting": {"en": "waiting, mean and most", "zh": "等待作业数（平均、最多）"},
    "refused": {"en": "refused", "zh": "被拒绝"},
    "preemptions": {"en": "preemptions", "zh": "抢占"},
    "restarts": {"en": "restarts", "zh": "重启"},
    "resizes": {"en": "resizes", "zh": "改变规模"},
    "lost": {"en": "lost, h", "zh": "丢失（小时）"},
    "power": {"en": "power, most", "zh": "最大功率"},
    "services": {"en": "services of", "zh": "推理服务，池"},
    "kept": {"en": "device-h kept", "zh": "自用卡时"},
    "lent": {"en": "lent", "zh": "借出"},
    "short": {"en": "lacked", "zh": "欠缺"},
    "asked_back": {"en": "nodes asked back", "zh": "收回节点"},
    "stopped": {"en": "jobs stopped or moved", "zh": "停止或迁移作业"},
    "shrunk": {"en": "shrunk", "zh": "缩减"},
    "note": {"en": "note", "zh": "说明"},
    "unknown": {"en": "unknown", "zh": "未知"},
    "variant": {"en": "variant", "zh": "方案"},
    "metric": {"en": "metric", "zh": "指标"},
    "against": {"en": "against the first, on the same seeds", "zh": "与第一个方案之差（相同种子）"},
    "interval": {
        "en": "mean over {seeds} seeds, ± the half of its {confidence:.0%} interval (Student's t)",
        "zh": "{seeds} 个种子的平均值，± 为 {confidence:.0%} 置信区间的一半（学生 t 分布）",
    },
    "alike": {
        "en": "all variants came to the same: none of these metrics differs",
        "zh": "所有方案结果相同：没有指标有差异",
    },
    "one_seed": {"en": "one seed: no interval", "zh": "只有一个种子：无置信区间"},
    "marks": {
        "en": "* better, ! worse than the first: the interval of the difference leaves out zero",
        "zh": "* 优于、! 劣于第一个方案：差值的置信区间不含零",
    },
    "settings": {"en": "settings", "zh": "组参数"},
    "trials": {"en": "trials", "zh": "次模拟"},
    "parameter": {"en": "parameter", "zh": "参数"},
    "present": {"en": "present", "zh": "当前"},
    "found": {"en": "found", "zh": "搜索所得"},
    "held_out": {"en": "held out: mean JCT", "zh": "未参与搜索的时段：平均完成时间"},
    "gain": {"en": "less", "zh": "减少"},
    "past": {"en": "on the past, where it was searched", "zh": "在参与搜索的时段上"},
    "use": {"en": "use what was found", "zh": "建议采用"},
    "keep": {"en": "keep what is there", "zh": "建议保持现状"},
    "more": {"en": "more", "zh": "更多"},
    "told": {"en": "waits as they were forecast", "zh": "等待时间预测的准确程度"},
    "told_50": {"en": "waits against P50", "zh": "预测 P50"},
    "told_90": {"en": "waits against P90", "zh": "预测 P90"},
    "told_shares": {
        "en": "{within} within, {below} below; {told} told to wait, of these {of_told} within",
        "zh": "不超过 {within}，低于 {below}；被告知需等待 {told}，其中不超过 {of_told}",
    },
    "told_loss": {"en": "loss of the forecasts", "zh": "预测的分位数损失"},
    "told_of": {"en": "{loss}; {scored} jobs", "zh": "{loss}；{scored} 个作业"},
    "told_nothing": {
        "en": "nothing learnt yet: fewer than {first} jobs had started when the last one came",
        "zh": "尚未学到：最后一个作业到来时，已启动的作业不足 {first} 个",
    },
    "queue_running": {"en": "jobs run", "zh": "个作业运行"},
    "queue_waiting": {"en": "wait", "zh": "个等待"},
    "queue_at": {"en": "at", "zh": "时刻"},
    "queue_learnt": {"en": "learnt from {:,} waits that are over", "zh": "由 {:,} 次已结束的等待学得"},
    "queue_new": {"en": "a new job of", "zh": "新作业，提交者"},
    "queue_time": {"en": "for", "zh": "时长"},
    "queue_waits": {"en": "waits now", "zh": "正在等待"},
    "queue_waited": {"en": "since", "zh": "已等待"},
    "queue_p50": {"en": "P50 from now", "zh": "还需 P50"},
    "queue_p90": {"en": "P90 from now", "zh": "还需 P90"},
    "queue_never": {"en": "never", "zh": "永不"},
    "queue_at_once": {"en": "at once", "zh": "立即"},
}

METRICS: Final[dict[str, dict[Language, str]]] = {
    "effective": {"en": "effective compute", "zh": "有效算力"},
    "availability": {"en": "availability", "zh": "可用率"},
    "scheduling": {"en": "scheduling", "zh": "调度效率"},
    "fault_handling": {"en": "fault handling", "zh": "故障处理效率"},
    "wait_s_mean": {"en": "wait, mean", "zh": "平均等待"},
    "wait_s_p95": {"en": "wait, p95", "zh": "等待 P95"},
    "completion_s_mean": {"en": "JCT, mean", "zh": "平均完成时间"},
    "completion_s_p95": {"en": "JCT, p95", "zh": "完成时间 P95"},
    "slowdown_mean": {"en": "slowdown, mean", "zh": "平均减速比"},
    "slowdown_p95": {"en": "slowdown, p95", "zh": "减速比 P95"},
    "utilisation": {"en": "utilisation", "zh": "利用率"},
    "fragmented": {"en": "fragmented", "zh": "碎片"},
    "fairness": {"en": "fairness (Jain)", "zh": "公平性（Jain）"},
    "finish_time_fairness_p95": {"en": "finish-time fairness, p95", "zh": "完成时间公平性 P95"},
    "restarts": {"en": "restarts", "zh": "重启"},
    "lost_hours": {"en": "run time lost, h", "zh": "丢失运行时间（小时）"},
    "deadlines_missed": {"en": "deadlines missed", "zh": "超期"},
    "ended": {"en": "jobs ended", "zh": "完成作业"},
    "duration_s": {"en": "duration", "zh": "时长"},
    "energy_kwh": {"en": "energy, kWh", "zh": "能耗（kWh）"},
    "carbon_kg": {"en": "CO2, kg", "zh": "CO2（kg）"},
    "effective_time": {"en": "effective training time", "zh": "有效训练时间"},
    "progress": {"en": "progress", "zh": "相对进度"},
    "steps": {"en": "steps kept", "zh": "保留步数"},
    "mtbf_s": {"en": "one interruption in", "zh": "平均中断间隔"},
    "interruptions": {"en": "interruptions", "zh": "中断"},
    "lost_steps": {"en": "steps lost", "zh": "丢失步数"},
    "steps_done": {"en": "steps done", "zh": "完成步数"},
    "steps_lost": {"en": "steps lost", "zh": "丢失步数"},
    "incidents": {"en": "incidents", "zh": "故障"},
    "recovery_s_mean": {"en": "recovery, mean", "zh": "平均恢复时间"},
}


WORDS_ZH: Final[dict[str, str]] = {
    "gang": "并行训练", "hpc": "高性能计算", "inference": "推理", "interactive": "交互式", "experiment": "小实验",
    "repair": "维修", "in_place": "原地重启", "slow": "变慢", "corrupt": "静默错误", "maintenance": "维护",
    "form": "组成", "restart_workers": "重启工作进程", "replace_node": "替换节点", "shrink_group": "缩小副本组",
    "wait_for_group": "等待副本组", "degrade": "降级运行", "readmit_group": "重新接纳副本组",
    "rebalance": "重新分配份额", "stop_user_error": "因用户错误停止", "give_up": "放弃",
    "restart_controller": "重启控制器", "fresh": "初始权重", "live": "健康副本组", "memory": "内存", "disk": "磁盘",
    "numbers": "按编号", "completed": "完成", "degraded": "降级完成", "interrupted": "中断", "failed": "失败",
    "user_error": "用户错误", "stuck": "停滞", "waiting": "等待节点", "forming": "组建", "running": "运行",
    "holding": "等待", "blocked": "受阻", "finishing": "收尾", "ended": "已结束",
}  # fmt: skip
"""Of kinds of jobs, courses of faults, decisions, tiers, outcomes and phases; in English they are as in files."""
PROBLEMS_ZH: Final[dict[str, str]] = {
    "missing field": "缺少字段", "not a number": "不是数字", "out of range": "超出范围", "negative time": "时间为负",
    "no devices": "没有卡", "did not run": "从未运行", "repeated id": "编号重复", "not a record": "不是记录",
    "unknown pool": "未知的池", "no such node": "没有该节点", "unknown course": "未知的过程", "bad factor": "系数无效",
    "repeated": "重复",
}  # fmt: skip
"""Why lines of traces and logs of faults gave nothing."""
STRETCHES_ZH: Final = {"week": "周 ", "period": "时段 "}
NOTES_ZH: Final[tuple[tuple[str, str], ...]] = (
    (r"jobs refused: ([\d,]+); .*", r"被拒绝的作业：\1；没有池能运行它们，见“被拒绝”"),
    (r"jobs that had not ended when the scenario did: ([\d,]+); .*", r"结束时尚未完成的作业：\1；不计入任何平均值"),
    (r"effective compute is unknown: say what share .*", r"有效算力未知：请用 `workload.mfu` 给出保留时间占峰值的比例"),
    (r"effective compute is unknown: say `training.mfu`.*", r"有效算力未知：请给出 `training.mfu` 或芯片峰值"),
    (r"in some cells jobs were refused: .*", r"部分单元中有作业被拒绝：没有池能运行它们；各单元中列出"),
    (r"in some cells jobs had not ended .*", r"部分单元结束时仍有作业未完成；等待、完成时间和减速比只统计已完成的"),
)
"""What answers and sweeps note, by pattern."""


def word(text: str, language: Language) -> str:
    """A kind, course, decision or tier; one's own words stay as they are."""
    return text.replace("_", " ") if language == "en" else WORDS_ZH.get(text, text)


def noted(note: str, language: Language) -> str:
    """A note; one that is not known stays as it is."""
    if language == "en":
        return note
    said = by_pattern(note, NOTES_ZH)
    return note if said is None else said


def wrong_lines(intake: Intake | FaultIntake, language: Language) -> tuple[str, ...]:
    """What is to be told about lines of a trace or a log that gave nothing."""
    if language == "en" or not intake.problems:
        return intake.lines
    kinds = "，".join(f"{PROBLEMS_ZH[kind]} {count:,}" for kind, count in sorted(intake.problems.items()))
    first = intake.examples[0]
    total = sum(intake.problems.values())
    return (f"{intake.source}：{total:,} 行无效：{kinds}；首个在第 {first.line} 行（{PROBLEMS_ZH[first.kind]}）",)


def verdict(report: TuningReport, language: Language) -> str:
    """Why the setting that was found is recommended, or not."""
    if language == "en":
        return report.reason
    if report.found == report.present:
        return "在过去的时段上没有更好的参数"
    gain = report.held_out
    if gain.gain_low is None or gain.gain_high is None:
        return f"未证实：损失 {-gain.saved:+.1%}，只有一个未参与搜索的时段，证明不了什么"
    low, high = math.expm1(-gain.gain_high), math.expm1(-gain.gain_low)
    said = f"在 {gain.weeks} 个未参与搜索的时段上损失 {-gain.saved:+.1%}，"
    said += f"{gain.confidence:.0%} 区间 {low:+.1%} 至 {high:+.1%}"
    if report.recommended:
        return said
    return f"有害：{said}，但不公平程度增加 {math.expm1(gain.harm):.1%}" if gain.proven else f"未证实：{said}"


def stretch(name: str, language: Language) -> str:
    """`week 7` or `period 7` of a search."""
    return name if language == "en" else re.sub(r"^(week|period) ", lambda one: STRETCHES_ZH[one[1]], name)


def term(key: str, language: Language) -> str:
    return TERMS[key][language]


def metric(name: str, language: Language) -> str:
    """A metric's name; `money USD` is in `METRICS` of no currency."""
    if name.startswith("money "):
        return f"{term('money', language)}, {name.removeprefix('money ') or '?'}"
    return METRICS[name][language] if name in METRICS else name
