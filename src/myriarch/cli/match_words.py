"""The words of `myriarch match` (算力撮合), in English and Chinese. Keys, not texts, are what programs read."""

from __future__ import annotations

from typing import Final

from myriarch.cli.report_words import Language

TERMS: Final[dict[str, tuple[str, str]]] = {
    "title": ("Match", "算力撮合"),
    "jobs_on": ("jobs on", "个作业，算力池数"),
    "pools": ("pools", ""),
    "job": ("job", "作业"),
    "pool": ("pool", "算力池"),
    "gets": ("gets", "分到"),
    "when": ("when", "时段"),
    "start": ("start", "开始"),
    "devices": ("devices", "卡"),
    "price": ("price", "比价"),
    "billed": ("billed", "账单"),
    "next": ("next best", "次优"),
    "more": ("for", "多付"),
    "nothing": ("nothing", "未分到"),
    "rent": ("rent", "租金"),
    "energy": ("energy", "电费"),
    "data": ("data", "数据搬运"),
    "voucher": ("voucher", "算力券"),
    "carbon": ("carbon", "碳价"),
    "wait": ("wait", "等待"),
    "carbon_kg": ("kg CO2", "千克 CO2"),
    "extra": ("extra", "多付"),
    "taken": ("taken; alone", "已占；独用时"),
    "cannot": ("cannot", "不可行"),
    "chosen": ("chosen", "选中"),
    "free": ("free", "可选"),
    "shadow": ("One more device, for an hour, would save", "影子价格：多一张卡一小时可省"),
    "not_next": ("why not the next", "为何不选次优"),
    "guide": ("a guide: the relaxation is below the optimum", "仅供参考：松弛解低于最优"),
    "from": ("from", "自"),
    "until": ("until", "至"),
    "saving": ("by the device-hour", "每卡时"),
    "placed": ("placed", "已安排"),
    "compared": ("compared", "比价合计"),
    "bills": ("bills", "账单"),
    "optimal": ("proven best", "已证最优"),
    "time_limit": ("not proven", "未证最优"),
    "within": ("within", "差距不超过"),
    "greedy": ("one after the other, as they came", "先到先配，未求最优"),
    "reason": ("why", "原因"),
    "note": ("note", "注"),
    "more_rows": ("more", "行未列出"),
    "need_tenant": ("tenant", "租户无权使用"),
    "need_chip": ("chip", "芯片不符"),
    "need_precision": ("precision", "精度不支持或未知"),
    "need_memory": ("memory", "显存不足"),
    "need_expectation": ("expectation", "在此需多久未知，请给 device_hours"),
    "need_data": ("data", "没有数据线路"),
    "need_devices": ("devices", "同时空闲的卡不足"),
    "need_time": ("time", "时间不够"),
    "need_budget": ("budget", "超出预算"),
    "need_taken": ("taken", "已被其他作业占用"),
    "means": (
        "price: what is billed, less the voucher, with carbon and waiting at their prices; what ranks alternatives",
        "比价：账单减去算力券，加上碳与等待按价折算；按它排序",
    ),
}


def term(key: str, language: Language) -> str:
    """In one language; an unknown key is its own word."""
    english, chinese = TERMS.get(key, (key, key))
    return chinese if language == "zh" else english
