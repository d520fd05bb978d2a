"""How the solver of a linear layer ended, as a record has it; does not solve."""

from export.document import Document
from training.logistic import Solution


class Convergence(Document):
    """How the solver ended: the largest entry of the gradient, and the bound that it had to come under."""

    iterations: int
    gradient: float
    tolerance: float
    converged: bool

    @classmethod
    def of(cls, solution: Solution) -> "Convergence":
        """That of a layer."""
        return cls(
            iterations=solution.iterations,
            gradient=solution.gradient,
            tolerance=solution.tolerance,
            converged=solution.converged,
        )
