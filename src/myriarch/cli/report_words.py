"""The words of the report, in English and Chinese. Keys, not texts, are what programs read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Final, Literal, get_args

from myriarch.errors import UsageError
from myriarch.event.spans import Leaf, Level

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)


def choose_language(wanted: str = "") -> Language:
    """`wanted`, else `MYRIARCH_LANG`, where English stands for anything that is not known: it may be a locale of any
    kind, and for Chinese where standard output has not its letters. Raises UsageError for a `wanted` one that is
    not known."""
    text = (wanted or os.environ.get("MYRIARCH_LANG", "")).lower()
    found = next((language for language in LANGUAGES if text.startswith(language)), None)
    if found is None and wanted:
        raise UsageError(f"--lang: `{wanted}` is not known", hint=f"use {' or '.join(LANGUAGES)}")
    if found == "zh" and not _has_chinese(sys.stdout.encoding or "utf-8"):
        print(f"{sys.stdout.encoding} has no Chinese letters; set PYTHONIOENCODING=utf-8", file=sys.stderr)
        return "en"
    return found or "en"


def _has_chinese(encoding: str) -> bool:
    """A row of question marks is of no use to anybody."""
    try:
        TERMS["effective"]["zh"].encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def by_pattern(text: str, patterns: Iterable[tuple[str, str]]) -> str | None:
    """A text in other words: of the first pattern that is all of it, with its groups filled in; None: there is none."""
    return next((found.expand(to) for pattern, to in patterns if (found := re.fullmatch(pattern, text))), None)


TERMS: Final[dict[str, dict[Language, str]]] = {
    "effective": {"en": "Effective compute", "zh": "有效算力"},
    "unknown": {"en": "unknown", "zh": "未知"},
    "availability": {"en": "availability", "zh": "可用率"},
    "scheduling": {"en": "scheduling", "zh": "调度效率"},
    "fault_handling": {"en": "fault handling", "zh": "故障处理效率"},
    "compute": {"en": "compute (MFU of kept time)", "zh": "计算效率（保留时间的 MFU）"},
    "availability_means": {"en": "of all devices owned, usable", "zh": "拥有的卡中可用的部分"},
    "scheduling_means": {"en": "of those, given to the job", "zh": "其中分给作业的部分"},
    "fault_handling_means": {"en": "of that, in steps that were kept", "zh": "其中用于被保留的步的部分"},
    "compute_means": {"en": "of that, model FLOPs at peak rate", "zh": "其中按峰值折算的模型 FLOP"},
    "where": {"en": "Where the device time went", "zh": "卡时去了哪里"},
    "leaf": {"en": "leaf", "zh": "去向"},
    "level": {"en": "level", "zh": "层级"},
    "device_time": {"en": "device time", "zh": "卡时"},
    "share": {"en": "share", "zh": "占比"},
    "gain": {"en": "if zero", "zh": "若为零"},
    "capacity": {"en": "capacity", "zh": "总容量"},
    "incidents": {"en": "Incidents (seconds since the fault)", "zh": "故障（自故障起的秒数）"},
    "no_incidents": {"en": "No incidents.", "zh": "没有故障。"},
    "fault": {"en": "fault", "zh": "故障"},
    "at": {"en": "at", "zh": "时刻"},
    "detected": {"en": "detected", "zh": "发现"},
    "decided": {"en": "decided", "zh": "决策"},
    "restored": {"en": "restored", "zh": "恢复"},
    "first_step": {"en": "first step", "zh": "首步"},
    "lost_steps": {"en": "lost steps", "zh": "丢失步数"},
    "split": {"en": "split", "zh": "分解"},
    "why": {"en": "why", "zh": "原因"},
    "fix": {"en": "First thing to fix", "zh": "首先改进"},
    "nothing_to_fix": {"en": "nothing was lost", "zh": "没有损失"},
    "would_be": {"en": "without it, effective compute would be", "zh": "若消除，有效算力为"},
    "pool": {"en": "pool", "zh": "池"},
    "chip": {"en": "chip", "zh": "芯片"},
    "devices": {"en": "devices", "zh": "卡"},
    "peak": {"en": "peak", "zh": "峰值"},
    "tokens": {"en": "tokens", "zh": "token 数"},
    "emulated": {"en": "emulated", "zh": "模拟方式"},
    "steps": {"en": "steps", "zh": "步"},
    "lost": {"en": "lost", "zh": "丢失"},
    "provisional": {"en": "provisional", "zh": "待定"},
    "loss": {"en": "loss", "zh": "损失值"},
    "snapshots": {"en": "snapshots", "zh": "快照"},
    "committed": {"en": "committed", "zh": "已提交"},
    "skipped": {"en": "skipped", "zh": "跳过"},
    "drained": {"en": "drained to disk", "zh": "落盘"},
    "note": {"en": "note", "zh": "说明"},
    "warning": {"en": "warning", "zh": "警告"},
    "evidence_injected": {"en": "injected", "zh": "注入"},
    "evidence_silence": {"en": "measured silence", "zh": "静默时长"},
    "evidence_last_sign_of_life": {"en": "last sign of life", "zh": "最后活动迹象"},
    "evidence_detection": {"en": "first trouble", "zh": "首个异常"},
}

LEVELS: Final[dict[Level, dict[Language, str]]] = {
    "unusable": {"en": "unusable", "zh": "不可用"},
    "unscheduled": {"en": "unscheduled", "zh": "未调度"},
    "start": {"en": "start", "zh": "启动"},
    "step": {"en": "step", "zh": "步内"},
    "save": {"en": "save", "zh": "保存"},
    "fault": {"en": "fault", "zh": "故障"},
    "user": {"en": "user", "zh": "用户"},
    "unknown": {"en": "unknown", "zh": "未知"},
}

LEAVES_ZH: Final[dict[Leaf, str]] = {
    "repair": "维修", "drained": "已排空", "quarantined": "隔离", "maintenance": "维护",
    "power_or_network_down": "断电或断网",
    "idle_no_demand": "无需求空闲", "idle_fragmented": "碎片空闲", "idle_reserved_spare": "预留备用",
    "idle_waiting_gang": "等待凑齐", "idle_price_hold": "因电价等待",
    "queue_to_start": "排队启动", "image_pull": "拉取镜像", "rendezvous": "集合", "comm_init": "通信初始化",
    "model_build": "构建模型", "warm_up": "预热", "data_open": "打开数据",
    "useful_compute": "有效计算", "exposed_comm": "暴露的通信", "pipeline_bubble": "流水线气泡",
    "straggler_wait": "等待慢节点", "data_stall": "等待数据", "host_sync": "主机同步", "throttled": "降速",
    "checkpoint_stall": "检查点停顿", "checkpoint_contention": "检查点争用",
    "detect": "发现故障", "diagnose": "诊断", "replace": "替换", "restart": "重启", "restore": "恢复状态",
    "reshard": "重切分", "lost_work": "丢失的工作", "degraded": "降级运行", "sdc_replay": "静默错误重放",
    "evaluation": "评估", "manual_restart": "人工重启", "debug_hold": "调试占用", "preempted_by_policy": "策略抢占",
    "unattributed": "未归因",
}  # fmt: skip

ADVICE: Final[dict[Leaf, dict[Language, str]]] = {
    "repair": {
        "en": "shorten repairs, or keep one more spare in the pool",
        "zh": "缩短维修，或多留一个备用节点",
    },
    "idle_fragmented": {"en": "shape groups so that they use whole nodes", "zh": "让副本组占满整节点"},
    "idle_waiting_gang": {"en": "start with the nodes that are there", "zh": "用已到位的节点先启动"},
    "queue_to_start": {"en": "start agents and zygotes before the run", "zh": "在运行前先启动代理和 zygote"},
    "rendezvous": {"en": "look at the slowest node of the first start", "zh": "查看首次启动中最慢的节点"},
    "model_build": {"en": "build on the device, or keep workers warm", "zh": "直接在设备上构建，或保持工作进程预热"},
    "warm_up": {"en": "calibrate once and keep the result", "zh": "只校准一次并保留结果"},
    "exposed_comm": {
        "en": "overlap it with compute, exchange less often, or give slow groups a smaller share",
        "zh": "与计算重叠、减少交换次数，或减小慢组的份额",
    },
    "straggler_wait": {"en": "rebalance shares, or replace the slowest device", "zh": "重新分配份额，或替换最慢的卡"},
    "throttled": {
        "en": "look for heat, power limits or other work on the device",
        "zh": "检查散热、功耗和其他负载",
    },
    "data_stall": {"en": "read ahead, or move the data closer", "zh": "预读，或把数据放近"},
    "checkpoint_stall": {"en": "snapshot less often, or copy while computing", "zh": "降低快照频率，或边算边拷"},
    "detect": {"en": "shorten the heartbeat time limit", "zh": "缩短心跳时限"},
    "diagnose": {"en": "shorten the reconnect grace", "zh": "缩短重连宽限期"},
    "replace": {"en": "keep a warm spare in the pool", "zh": "在池中保留热备节点"},
    "restart": {
        "en": "keep processes warm, so that only what broke is started again",
        "zh": "保持进程预热，只重启坏的",
    },
    "restore": {"en": "take the state from a nearer tier", "zh": "从更近的存储层恢复"},
    "lost_work": {"en": "snapshot into memory more often", "zh": "提高内存快照频率"},
    "degraded": {"en": "re-admit the group, or keep a spare for it", "zh": "让该组重新加入，或为其留备用节点"},
    "unattributed": {"en": "find out which spans are missing", "zh": "找出缺失的时间记录"},
}


def term(key: str, language: Language) -> str:
    return TERMS[key][language]


def leaf_name(leaf: Leaf, language: Language) -> str:
    """As people read it; English is the key itself with spaces."""
    return LEAVES_ZH[leaf] if language == "zh" else leaf.replace("_", " ")


def advice(leaf: Leaf, language: Language) -> str:
    """One line on what helps against a leaf; empty if there is nothing general to say."""
    return ADVICE.get(leaf, {}).get(language, "")
