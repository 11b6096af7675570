"""Published scaling laws: what loss a model of N parameters reaches after D tokens, and how to share a budget.

Six forms. N are parameters, D tokens, C = 6 N D training FLOPs (of the parameters that a token meets), losses are nats
per token on the authors' own text and tokenizer, so losses of different laws must not be compared with each other.

    Additive    L = E + A/N^a + B/D^b               Hoffmann et al. approach 3, Besiroglu et al., Krajewski et al.
    Frontier    N = N0 (C/C0)^p                     Hoffmann et al. approaches 1 and 2, Llama 3: no loss
    Kaplan      N = Ne C^0.73, L = ((Nc/N)^(aN/aD) + Dc/D)^aD
    Repeated    Additive in effective N' and D'            Muennighoff et al.: few unique tokens, several epochs
    Sparse      a/N^a + b/D^b + c/(1-S)^l + d/((1-S)^e N^g) + E              Abnar et al.: mixtures by sparsity S
    Routed      log L = a log N + b log F + c log N log F + d                Clark et al.: at 130 billion tokens

Every law carries the range it was fitted on; whoever asks beyond it is told so (`plan.scaling`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final, Protocol

import numpy as np

from myriarch.cost.arrays import Array, Real
from myriarch.errors import SpecError

FLOPS_PER_PARAMETER_TOKEN: Final = 6.0
"""2 forward, 4 backward: Kaplan et al. (arXiv:2001.08361), section 2.1; attention's square left out."""
PETAFLOP_DAY_FLOPS: Final = 8.64e19


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """Smallest and largest runs that a law was fitted on; None: not told."""

    parameters: tuple[float, float] | None = None
    tokens: tuple[float, float] | None = None
    flops: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allocation:
    """How a law shares a budget."""

    parameters: float
    active_parameters: float
    """Those that one token is multiplied with; all, in a dense model."""
    tokens: float


class Law(Protocol):
    """What all forms answer."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def fitted(self) -> Fitted: ...
    @property
    def active_share(self) -> float:
        """Active over all parameters."""

    @property
    def has_loss(self) -> bool: ...

    def loss(self, parameters: Real, tokens: Real) -> Array:
        """Nats per token. Raises SpecError when the law has none."""

    def optimum(self, budget_flops: float) -> Allocation:
        """The share that loses least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Named:
    name: str
    source: str
    note: str = ""
    fitted: Fitted = Fitted()
    active_share: float = 1.0

    @property
    def has_loss(self) -> bool:
        return True

    def spent(self, budget_flops: float, parameters: float) -> Allocation:
        """The budget spent on a model of this size, to the last token."""
        active = parameters * self.active_share
        tokens = budget_flops / (FLOPS_PER_PARAMETER_TOKEN * active)
        return Allocation(parameters=parameters, active_parameters=active, tokens=tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Additive(_Named):
    """L(N, D) = E + A/N^alpha + B/D^beta: Hoffmann et al. (arXiv:2203.15556), equation 2."""

    floor: float
    a: float
    alpha: float
    b: float
    beta: float

    def loss(self, parameters: Real, tokens: Real) -> Array:
        loss: Array = self.floor + self.a * np.power(parameters, -self.alpha) + self.b * np.power(tokens, -self.beta)
        return loss

    def optimum(self, budget_flops: float) -> Allocation:
        """In closed form: equation 4 of Hoffmann et al., N = G (C/6)^(beta/(alpha+beta))."""
        both = self.alpha + self.beta
        g = (self.alpha * self.a / (self.beta * self.b)) ** (1.0 / both)
        product = budget_flops / (FLOPS_PER_PARAMETER_TOKEN * self.active_share)
        return self.spent(budget_flops, float(g * product ** (self.beta / both)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frontier(_Named):
    """Only where the optimum lies: N = N0 (C/C0)^exponent."""

    anchor_parameters: float
    anchor_flops: float
    exponent: float

    @property
    def has_loss(self) -> bool:
        return False

    def loss(self, parameters: Real, tokens: Real) -> Array:
        raise SpecError(f"law `{self.name}` tells sizes, not losses; use `besiroglu` or `chinchilla-3`", path="law")

    def optimum(self, budget_flops: float) -> Allocation:
        return self.spent(budget_flops, self.anchor_parameters * (budget_flops / self.anchor_flops) ** self.exponent)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kaplan(_Named):
    """Kaplan et al. (arXiv:2001.08361): equation 1.5 with table 2, and the efficient values of table 6.

    N leaves the embeddings out. The budget here is 6 N D; the paper's C_min is 1.81 times less, training below the
    critical batch: its D_opt counts the tokens at that batch.
    """

    def loss(self, parameters: Real, tokens: Real) -> Array:
        n, d = np.divide(6.4e13, parameters), np.divide(1.8e13, tokens)
        loss: Array = (n ** (0.076 / 0.103) + d) ** 0.103
        return loss

    def optimum(self, budget_flops: float) -> Allocation:
        efficient_days = budget_flops / (FLOPS_PER_PARAMETER_TOKEN * 1.3e9 * 2e10)
        return self.spent(budget_flops, 1.3e9 * efficient_days**0.73)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repeated(_Named):
    """Muennighoff et al. (arXiv:2305.16264), equations 5 and 6: repeated tokens and excess parameters fade.

    N' = U_N + U_N R_N* (1 - exp(-R_N/R_N*)), and D' likewise, with U_D the unique tokens that are used, U_N the
    parameters that would be optimal for them, and R how often each is repeated beyond once.
    """

    single: Additive
    unique_tokens: float
    tokens_fade: float = 15.387756
    """R_D*: appendix A, table of fits."""
    parameters_fade: float = 5.309743
    """R_N*: appendix A, table of fits."""

    def loss(self, parameters: Real, tokens: Real) -> Array:
        used = np.minimum(tokens, self.unique_tokens)
        both = self.single.alpha + self.single.beta
        g = (self.single.alpha * self.single.a / (self.single.beta * self.single.b)) ** (1.0 / both)
        # The size whose optimal tokens are `used`: equation 4 of Hoffmann et al. solved for the budget.
        fitting = np.minimum(parameters, g * (g * used) ** (self.single.beta / self.single.alpha))
        return self.single.loss(
            effective(fitting, parameters, self.parameters_fade), effective(used, tokens, self.tokens_fade)
        )

    def optimum(self, budget_flops: float) -> Allocation:
        return least_loss(self, budget_flops)


def effective(unique: Real, total: Real, fade: float) -> Array:
    """What `total` is worth when only `unique` of it are not repeated (Muennighoff et al., equation 5)."""
    repeats = np.divide(total, unique) - 1.0
    worth: Array = np.asarray(unique) * (1.0 - fade * np.expm1(-repeats / fade))
    return worth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sparse(_Named):
    """Abnar et al. (arXiv:2501.12370), equation 6 with table 3. N are all parameters, S the share of experts that a
    token leaves out; what a token meets is taken as (1 - S) N, attention's share not counted apart."""

    sparsity: float

    def loss(self, parameters: Real, tokens: Real) -> Array:
        dense = 1.0 - self.sparsity
        loss: Array = (
            16612.50 * np.power(parameters, -0.5962)
            + 5455.67 * np.power(tokens, -0.3954)
            + 0.4598 * dense**0.1666
            + 17.26 * dense**-0.1603 * np.power(parameters, -0.1595)
            + 0.94
        )
        return loss

    def optimum(self, budget_flops: float) -> Allocation:
        return least_loss(self, budget_flops)


SEARCHED_PARAMETERS: Final = (1e5, 1e17)
SEARCH_POINTS: Final = 1_201
"""100 a decade: far finer than any law's valley, so that the section that follows has the one minimum inside."""
GOLDEN: Final = (math.sqrt(5.0) - 1.0) / 2.0


def least_loss(law: Law, budget_flops: float) -> Allocation:
    """The optimum of any law that has a loss, by a grid and golden section in log N."""

    def spent(log_n: Real) -> tuple[Array, Array]:
        n = np.exp(log_n)
        return n, budget_flops / (FLOPS_PER_PARAMETER_TOKEN * n * law.active_share)

    grid = np.linspace(math.log(SEARCHED_PARAMETERS[0]), math.log(SEARCHED_PARAMETERS[1]), SEARCH_POINTS)
    best = int(np.argmin(law.loss(*spent(grid))))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, grid.size - 1)])
    while high - low > 1e-9:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if float(law.loss(*spent(left))) <= float(law.loss(*spent(right))):
            high = right
        else:
            low = left
    n, d = spent((low + high) / 2.0)
    return Allocation(parameters=float(n), active_parameters=float(n) * law.active_share, tokens=float(d))


HOFFMANN_FITTED: Final = Fitted(parameters=(70e6, 16e9), tokens=(5e9, 500e9), flops=(6e18, 3e21))
"""Abstract and figure 3 of arXiv:2203.15556. Chinchilla itself (5.76e23) was one check far beyond."""


def _through(name: str, source: str, low: tuple[float, float], high: tuple[float, float]) -> Frontier:
    """The power law through two rows (parameters, FLOPs) of a table of Hoffmann et al."""
    return Frontier(
        name=name,
        source=source,
        fitted=HOFFMANN_FITTED,
        anchor_parameters=low[0],
        anchor_flops=low[1],
        exponent=math.log(high[0] / low[0]) / math.log(high[1] / low[1]),
    )


CHINCHILLA_1: Final = _through(
    "chinchilla-1",
    "Hoffmann et al., arXiv:2203.15556, approach 1: through the first and last row of table 3",
    (400e6, 1.92e19),
    (10e12, 1.30e28),
)
CHINCHILLA_2: Final = _through(
    "chinchilla-2",
    "Hoffmann et al., arXiv:2203.15556, approach 2: through the first and last row of table A3",
    (400e6, 1.84e19),
    (10e12, 1.75e28),
)
CHINCHILLA_3: Final = Additive(
    name="chinchilla-3",
    source="Hoffmann et al., arXiv:2203.15556, approach 3, in the digits of its TeX source as Besiroglu et al. "
    "(arXiv:2404.10102) print them",
    note="its fit had not converged (Besiroglu et al.): for contrast; the rounded 0.34 and 0.28 of the text do not "
    "give its own table A3",
    fitted=HOFFMANN_FITTED,
    floor=1.6934,
    a=406.4,
    alpha=0.3392,
    b=410.7,
    beta=0.2849,
)
BESIROGLU: Final = Additive(
    name="besiroglu",
    source="Besiroglu et al., arXiv:2404.10102, table 1: approach 3 fitted anew on the points of Hoffmann's figure 4",
    note="standard errors: B 1293, A 125, exponents 0.02",
    fitted=Fitted(parameters=(57e6, 16.2e9), tokens=(0.25e9, 318e9), flops=(1.4e18, 1.3e22)),
    floor=1.8172,
    a=482.01,
    alpha=0.3478,
    b=2085.43,
    beta=0.3658,
)
LLAMA_3: Final = Frontier(
    name="llama-3",
    source="Llama Team, arXiv:2407.21783, section 3.2.1 and figure 3: D = 0.299 C^0.537",
    note="the text rounds to (0.53, 0.29), and reads 402 billion parameters at 3.8e25",
    fitted=Fitted(parameters=(40e6, 16e9), flops=(6e18, 1e22)),
    anchor_parameters=1.0 / (FLOPS_PER_PARAMETER_TOKEN * 0.299),
    anchor_flops=1.0,
    exponent=1.0 - 0.537,
)
KAPLAN: Final = Kaplan(
    name="kaplan",
    source="Kaplan et al., arXiv:2001.08361, tables 2 and 6",
    note="one schedule for all lengths made short runs look bad (Hoffmann et al., section 2): for contrast only",
    fitted=Fitted(parameters=(768.0, 1.5e9), tokens=(22e6, 23e9)),
)
MUENNIGHOFF_SINGLE: Final = Additive(
    name="muennighoff",
    source="Muennighoff et al., arXiv:2305.16264, appendix A: fit on C4, exponents tied",
    fitted=Fitted(parameters=(7e6, 9e9), tokens=(100e6, 900e9)),
    floor=math.exp(0.6254804),
    a=math.exp(6.255414),
    alpha=0.3526596,
    b=math.exp(7.3049974),
    beta=0.3526596,
)
KRAJEWSKI_FITTED: Final = Fitted(parameters=(129e6, 3.7e9), tokens=(16e9, 130e9))
KRAJEWSKI_DENSE: Final = Additive(
    name="krajewski-dense",
    source="Krajewski et al., arXiv:2402.07871, table 1, dense",
    note="embeddings left out",
    fitted=KRAJEWSKI_FITTED,
    floor=0.47,
    a=16.3,
    alpha=0.126,
    b=26.7,
    beta=0.127,
)
KRAJEWSKI_EXPANSION: Final = 64
"""Each MLP is 64 times as wide as its active part: the only expansion that was fitted."""
GRANULARITIES: Final = (1.0, 16.0)


def data_constrained(unique_tokens: float) -> Repeated:
    """The law for a corpus of so many tokens, read as often as need be."""
    if not 1 <= unique_tokens < math.inf:
        raise SpecError(f"{unique_tokens} is no number of tokens; name those there are", path="unique_tokens")
    return Repeated(
        name="muennighoff",
        source="Muennighoff et al., arXiv:2305.16264, equations 5 and 6, constants of appendix A",
        note="repeating never harms in this law; beyond some 40 epochs it did in the runs",
        fitted=MUENNIGHOFF_SINGLE.fitted,
        single=MUENNIGHOFF_SINGLE,
        unique_tokens=unique_tokens,
    )


def fine_grained(granularity: float) -> Additive:
    """Krajewski et al. (arXiv:2402.07871), equation 9 with table 1: a mixture of 64-fold expansion, experts
    `granularity` times narrower than an MLP. N are all parameters without embeddings."""
    if not 1 <= granularity < math.inf:
        raise SpecError(
            f"{granularity} is not a number from 1 up; 1 is an expert as wide as an MLP", path="granularity"
        )
    beyond = not GRANULARITIES[0] <= granularity <= GRANULARITIES[1]
    return Additive(
        name="krajewski-moe",
        source="Krajewski et al., arXiv:2402.07871, equation 9 and table 1",
        note="the router's FLOPs (12 % at 100 million parameters) are left out"
        + (f"; granularity {granularity:g} is beyond the 1 to 16 that were fitted" if beyond else ""),
        fitted=KRAJEWSKI_FITTED,
        # Of a layer's 12 width^2, 4 are attention and 8 the MLP, which is there 64 times.
        active_share=12.0 / (4.0 + 8.0 * KRAJEWSKI_EXPANSION),
        floor=0.47,
        a=18.1 + 2.1 * granularity**-0.58,
        alpha=0.115,
        b=30.8,
        beta=0.147,
    )


def sparse(sparsity: float) -> Sparse:
    """A mixture in which a token leaves out this share of the experts."""
    if not 0 <= sparsity < 1:
        raise SpecError(f"{sparsity} is not in 0 ..< 1; it is the share of experts a token leaves out", path="sparsity")
    return Sparse(
        name="abnar",
        source="Abnar et al., arXiv:2501.12370, equation 6 and table 3",
        note="ten constants; on sparsity 0.98, held out, it explains 68 % of the variance",
        fitted=Fitted(flops=(3e19, 1e21)),
        active_share=1.0 - sparsity,
        sparsity=sparsity,
    )


PLAIN: Final[dict[str, Law]] = {
    law.name: law for law in (BESIROGLU, CHINCHILLA_1, CHINCHILLA_2, CHINCHILLA_3, LLAMA_3, KAPLAN, KRAJEWSKI_DENSE)
}
"""Laws that need nothing but a budget. The others: `muennighoff`, `krajewski-moe`, `abnar`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routed:
    """Clark et al. (arXiv:2202.01169), equation 1 with table 3; logarithms to base 10. Only at 130 billion tokens:
    it compares routed models with dense ones, it does not share a budget."""

    name: str
    a: float
    b: float
    c: float
    d: float
    start: float
    limit: float

    tokens: float = 130e9
    source: str = "Clark et al., arXiv:2202.01169, equation 1 and table 3"

    def saturated(self, experts: float) -> float:
        """Experts that count: few are worse than said, and beyond `limit` more bring nothing."""
        inner = experts - 1.0 + 1.0 / (1.0 / self.start - 1.0 / self.limit)
        return 1.0 / (1.0 / inner + 1.0 / self.limit)

    def loss(self, parameters: float, experts: float) -> float:
        """`parameters` of the dense model that every expert's model is built from."""
        n, e = math.log10(parameters), math.log10(self.saturated(experts))
        return float(10.0 ** (self.a * n + self.b * e + self.c * n * e + self.d))

    def dense_equivalent(self, parameters: float, experts: float) -> float:
        """Parameters of the dense model of the same loss: equation 11."""
        first, e = math.log10(self.saturated(1.0)), math.log10(self.saturated(experts))
        n = math.log10(parameters)
        exponent = ((self.a + self.c * e) * n + self.b * (e - first)) / (self.a + self.c * first)
        return float(10.0**exponent)

    @property
    def useless_from(self) -> float:
        """Parameters from which routing no longer helps at 130 billion tokens."""
        return float(10.0 ** (-self.b / self.c))


ROUTED: Final[dict[str, Routed]] = {
    law.name: law
    for law in (
        Routed(name="s-base", a=-0.082, b=-0.108, c=0.009, d=1.104, start=1.847, limit=314.478),
        Routed(name="rl-r", a=-0.083, b=-0.126, c=0.012, d=1.111, start=1.880, limit=469.982),
        Routed(name="hash", a=-0.087, b=-0.136, c=0.012, d=1.157, start=4.175, limit=477.741),
    )
}
