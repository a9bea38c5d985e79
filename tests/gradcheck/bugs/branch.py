"""Bugs at branch points and joints, and in what an iteration finds to a tolerance: the right ones have some limit."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted

# --- powers, roots and joints, with elements exactly where the pieces meet


def power_forward(x):
    return np.maximum(x, 0) ** 1.5, x


def power_backward(dout, x, slip=""):
    positive = np.maximum(x, 0)
    match slip:
        case "exponent forgotten":
            return dout * np.sqrt(positive)
        case "power not lowered":
            return 1.5 * dout * positive**1.5
        case "NaN at 0":
            with np.errstate(divide="ignore", invalid="ignore"):
                return 1.5 * dout * positive**2 / positive**1.5
    return 1.5 * dout * np.sqrt(positive)


def with_zeros(seed, size=8):
    (x,) = normal(seed, (size,))
    x[[1, 4]] = 0
    return (x,)


def modulus_forward(x):
    return np.abs(x) ** 1.5 + x * np.abs(x), x


def modulus_backward(dout, x, slip=""):
    root = 1.5 * np.sqrt(np.abs(x)) * (1 if slip == "sign forgotten" else np.sign(x))
    return dout * (root + (1 if slip == "factor 2 of the square" else 2) * np.abs(x))


def entropy_forward(x):
    """Take x^2 log x, 0 at 0."""
    return x**2 * np.log(np.where(x > 0, x, 1)), x


def entropy_backward(dout, x, slip=""):
    log = np.log(np.where(x > 0, x, 1))
    if slip == "second term forgotten":
        return 2 * dout * x * log
    return dout * (2 * x * log + x)


def probabilities():
    return (np.array([0.0, 0.2, 1e-3, 0.0, 1.0, 0.6]),)


def hinge_forward(scores, y):
    """Square the hinge, with two scores exactly at their margin."""
    return np.maximum(0, 1 - y * scores) ** 2, (scores, y)


def hinge_backward(dout, cache, slip=""):
    scores, y = cache
    over = np.maximum(0, 1 - y * scores)
    if slip == "gradient of the plain hinge":
        over = 0.5 * (over > 0)
    return -2 * dout * y * over * (0.5 if slip == "halved" else 1)


def margins():
    (scores,) = normal(401, (6,))
    scores[[0, 3]] = 1, -1
    return scores, np.array([1, -1, 1, -1, 1, -1])


def smoothstep_forward(x):
    t = np.clip(x, 0, 1)
    return t * t * (3 - 2 * t), t


def smoothstep_backward(dout, t, slip=""):
    if slip == "clip handed through":
        return dout * 6 * t
    return dout * (3 if slip == "halved" else 6) * t * (1 - t)


def steps():
    return (np.array([0.0, 1.0, 0.3, -0.4, 1.2, 0.8]),)


def wendland_forward(x, centres):
    """Take a kernel of compact support, with points exactly at its edge."""
    r = np.abs(x[:, None] - centres)
    left = np.maximum(1 - r, 0)
    return left**4 * (4 * r + 1), (x, centres, r, left)


def wendland_backward(dout, cache, slip=""):
    x, centres, r, left = cache
    d = -20 * dout * r * left**3 * np.sign(x[:, None] - centres)
    if slip == "second factor not differentiated":
        d = -4 * dout * left**3 * (4 * r + 1) * np.sign(x[:, None] - centres)
    if slip == "power not lowered":
        d = d * left
    return d.sum(axis=1), -d.sum(axis=0)


def lattice():
    return np.array([0.0, 1.5, -0.7]), np.array([1.0, 0.5, -0.2, 2.5])


def angle_forward(y, x):
    """Take angles on both sides of the cut and right beside it."""
    return np.arctan2(y, x), (y, x)


def angle_backward(dout, cache, slip=""):
    y, x = cache
    d = dout / (x * x + y * y)
    if slip == "arguments swapped":
        return -d * y, d * x
    return d * x, d * y if slip == "sign of dx" else -d * y


def beside_the_cut():
    return np.array([1e-9, -1e-7, 0.5, -1e-8]), np.array([-1.0, -2.0, 1.0, -0.5])


def arccos_forward(x):
    return np.arccos(x), x


def arccos_backward(dout, x, slip=""):
    inside = 1 - x * x + (1e-9 if slip == "an epsilon of 1e-9 under the root" else 0)
    d = -dout / np.sqrt(inside)
    return -d if slip == "sign" else d


def near_ends():
    return (np.array([1 - 2.0**-20, -1 + 2.0**-24, 0.3, 1 - 2.0**-10, 0.0]),)


def sinc_forward(x):
    """Take sin(x) / x, 1 at 0."""
    return np.sin(x) / np.where(x == 0, 1, x) + (x == 0), x


def sinc_backward(dout, x, slip=""):
    safe = np.where(x == 0, 1, x)
    slope = np.where(x == 0, 0, (np.cos(x) - np.sin(x) / safe) / safe)
    if slip == "slope of 1 at 0":
        slope = np.where(x == 0, 1, slope)
    if slip == "second term forgotten":
        slope = np.where(x == 0, 0, np.cos(x) / safe)
    return dout * slope


# --- what an iteration finds to a tolerance, differentiated implicitly


def kepler_forward(mean, eccentricity, tolerance=1e-11):
    """Solve E - e sin E = M by Newton's method, until a step is below the tolerance."""
    anomaly = mean + eccentricity * np.sin(mean)
    for _ in range(60):
        change = (anomaly - eccentricity * np.sin(anomaly) - mean) / (1 - eccentricity * np.cos(anomaly))
        anomaly = anomaly - change
        if np.max(np.abs(change)) < tolerance:
            break
    return anomaly, (anomaly, eccentricity)


def kepler_backward(dout, cache, slip=""):
    anomaly, eccentricity = cache
    d = dout / (1 - eccentricity * np.cos(anomaly))
    if slip == "derivative of the equation forgotten":
        d = dout
    if slip == "a millionth too large":
        d = (1 + 1e-6) * d
    return d, d * (np.cos(anomaly) if slip == "cosine for sine" else np.sin(anomaly))


def fixed_point_forward(weight, x, tolerance=1e-11):
    """Iterate z = tanh(W z + x) until it moves by less than the tolerance, as a deep equilibrium model does."""
    z = 0 * x
    for _ in range(400):
        new = np.tanh(weight @ z + x)
        moved = np.max(np.abs(new - z))
        z = new
        if moved < tolerance:
            break
    return z, (weight, z)


def fixed_point_backward(dout, cache, slip=""):
    weight, z = cache
    slope = 1 - z * z
    jacobian = slope[:, None] * weight
    if slip == "Jacobian not transposed":
        jacobian = jacobian.T
    d = slope * (np.linalg.inv(np.eye(len(z)) - jacobian).T @ dout)
    if slip == "through the last iteration alone":
        d = slope * dout
    if slip.startswith("through the last") and slip.endswith("iterations"):
        v = dout
        for _ in range(2 if "three" in slip else 4):
            v = dout + jacobian.T @ v
        d = slope * v
    return np.outer(d, z), d


def equilibrium():
    weight, x = normal(402, (2, 2), (2,))
    return 0.3 * weight, x


def sinkhorn_forward(cost, tolerance=1e-10):
    """Scale exp(-C) until its rows sum to 1/n and its columns, too, within the tolerance; return the plan."""
    kernel = np.exp(-cost)
    n, m = cost.shape
    v = np.ones(m, cost.dtype)
    for _ in range(2000):
        u = 1 / (n * (kernel @ v))
        v = 1 / (m * (kernel.T @ u))
        off = np.abs(u * (kernel @ v) - 1 / n).max()
        if off < tolerance:
            break
    plan = u[:, None] * kernel * v
    return plan, plan


def sinkhorn_backward(dout, plan, slip=""):
    n, m = plan.shape
    weighted = dout * plan
    if slip == "marginals taken as free":
        return -weighted
    # the multipliers solve [diag(P 1), P; P', diag(P' 1)] [a; b] = [rows; columns], with b[0] = 0 for its null space
    system = np.zeros((n + m, n + m))
    system[:n, :n], system[n:, n:] = np.diag(plan.sum(axis=1)), np.diag(plan.sum(axis=0))
    system[:n, n:], system[n:, :n] = plan, plan.T
    sums = np.concatenate((weighted.sum(axis=1), weighted.sum(axis=0)))
    solved = np.linalg.inv(system[:-1, :-1]) @ sums[:-1]
    a, b = solved[:n], np.append(solved[n:], 0)
    if slip == "columns' marginals taken as free":
        a, b = weighted.sum(axis=1) / plan.sum(axis=1), 0 * b
    if slip == "multipliers a ten-thousandth too large":
        a = 1.0001 * a
    return plan * (a[:, None] + b) - weighted


def cg_forward(matrix, b, tolerance=1e-10):
    """Solve with the symmetric part of a matrix by conjugate gradients, to a residual."""
    a = (matrix + matrix.T) / 2
    x, r = 0 * b, b
    p = r
    for _ in range(60):
        if np.sqrt(np.abs((r * r).sum())) < tolerance:
            break
        ap = a @ p
        alpha = (r * r).sum() / (p * ap).sum()
        x, new = x + alpha * p, r - alpha * ap
        p, r = new + (new * new).sum() / (r * r).sum() * p, new
    return x, (a, x)


def cg_backward(dout, cache, slip=""):
    a, x = cache
    db = np.linalg.inv(a) @ dout
    da = -np.outer(db, x)
    if slip == "dmatrix not made symmetric":
        return da, db
    if slip == "sign of dmatrix":
        da = -da
    return (da + da.T) / 2, db * (1 + 1e-5 if slip == "db a hundred-thousandth too large" else 1)


def definite():
    matrix, b = normal(403, (3, 3), (3,))
    return matrix @ matrix.T / 4 + np.eye(3), b


def power_iteration_forward(matrix, tolerance=1e-12):
    """Find the largest eigenvalue of the symmetric part, until it moves by less than the tolerance."""
    a = (matrix + matrix.T) / 2
    v, value = np.ones(len(a), matrix.dtype), 0.0
    for _ in range(3000):
        w = a @ v
        v = w / np.sqrt((w * w).sum())
        new = v @ a @ v
        moved, value = abs(new - value), new
        if moved < tolerance:
            break
    return value, v


def power_iteration_backward(dout, v, slip=""):
    gradient = dout * np.outer(v, v)
    if slip == "off-diagonal doubled":
        gradient = gradient * (2 - np.eye(len(v)))
    if slip == "diagonal alone":
        gradient = gradient * np.eye(len(v))
    return gradient


def bisection_forward(c, tolerance=1e-8):
    """Find the root of x^3 + x = c between brackets that close until they are narrow enough."""
    low, high = -np.abs(c) - 1, np.abs(c) + 1
    while np.max(high - low) > tolerance:
        middle = (low + high) / 2
        above = middle**3 + middle > c
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2, (low + high) / 2


def bisection_backward(dout, x, slip=""):
    if slip == "linear term forgotten":
        return dout / (3 * x * x)
    return dout / (3 * x * x + 1) * (1.05 if slip == "a twentieth too large" else 1)


def newton_root_forward(x, tolerance=1e-9):
    """Take cube roots by Newton's method, to a tolerance, and each alone."""
    roots = []
    for v in x:
        y = 1 + (v - 1) / 3
        while abs(change := (y**3 - v) / (3 * y * y)) > tolerance:
            y = y - change
        roots.append(y)
    return np.array(roots), np.array(roots)


def newton_root_backward(dout, y, slip=""):
    return dout / ((2 if slip == "3 taken for 2" else 3) * y * y)


def solved(name, forward, backward, args, tolerance, rtol=1e-7):
    return partial(
        planted,
        name,
        forward=forward,
        right=backward,
        args=args,
        exact=partial(forward, tolerance=tolerance),
        rtol=rtol,
    )


def one_plan():
    return (0.5 * np.abs(normal(404, (2, 3))[0]),)


def symmetric():
    (matrix,) = normal(405, (3, 3))
    return (0.2 * (matrix + matrix.T) + 2 * np.ones((3, 3)),)


def anomalies():
    return np.array([0.3, -1.2, 2.5]), np.array([0.1, 0.4, 0.6])


power = partial(
    planted,
    "relu^1.5 with zeros",
    forward=power_forward,
    right=power_backward,
    args=partial(with_zeros, 406),
    kink=True,
)
modulus = partial(
    planted,
    "|x|^1.5 + x |x| with zeros",
    forward=modulus_forward,
    right=modulus_backward,
    args=partial(with_zeros, 407),
    kink=True,
)
entropy = partial(
    planted, "x^2 log x with zeros", forward=entropy_forward, right=entropy_backward, args=probabilities, kink=True
)
hinge = partial(
    planted, "squared hinge at its margin", forward=hinge_forward, right=hinge_backward, args=margins, kink=True
)
smoothstep = partial(
    planted, "smoothstep at its ends", forward=smoothstep_forward, right=smoothstep_backward, args=steps, kink=True
)
wendland = partial(
    planted, "Wendland kernel at its edge", forward=wendland_forward, right=wendland_backward, args=lattice, rtol=1e-7
)
angle = partial(
    planted,
    "arctan2 beside its cut",
    forward=angle_forward,
    right=angle_backward,
    args=beside_the_cut,
    rtol=1e-8,
    step=0.01,
)
arccos = partial(
    planted, "arccos near its ends", forward=arccos_forward, right=arccos_backward, args=near_ends, step=1e-9
)
sinc = partial(
    planted,
    "sinc with zeros",
    forward=sinc_forward,
    right=sinc_backward,
    args=lambda: (np.array([0.0, 1.3, -4.0, 0.0, 0.2]),),
)
kepler = solved("Kepler's equation to 1e-11", kepler_forward, kepler_backward, anomalies, 1e-18)
fixed_point = solved("equilibrium to 1e-11", fixed_point_forward, fixed_point_backward, equilibrium, 1e-18)
sinkhorn = solved("Sinkhorn to 1e-10", sinkhorn_forward, sinkhorn_backward, one_plan, 1e-17)
cg = solved("conjugate gradients to 1e-10", cg_forward, cg_backward, definite, 1e-17)
power_iteration = solved(
    "power iteration to 1e-12", power_iteration_forward, power_iteration_backward, symmetric, 1e-18, rtol=1e-5
)
bisection = solved(
    "bisection to 1e-8", bisection_forward, bisection_backward, partial(normal, 408, (2,)), 1e-17, rtol=1e-7
)
newton_root = solved(
    "cube roots to 1e-9", newton_root_forward, newton_root_backward, lambda: (np.array([2.0, 0.7, 5.0]),), 1e-17
)

BUGS = [
    power("exponent forgotten", called="a factor"),
    power("power not lowered"),
    power("NaN at 0", called="NaN"),
    modulus("sign forgotten", called="the sign of some elements"),
    modulus("factor 2 of the square"),
    entropy("second term forgotten", called="a lost term"),
    hinge("gradient of the plain hinge"),
    hinge("halved", called="a factor of 1/2"),
    smoothstep("clip handed through"),
    smoothstep("halved", called="a factor of 1/2"),
    wendland("second factor not differentiated"),
    wendland("power not lowered"),
    angle("arguments swapped", called="gradients swapped"),
    angle("sign of dx", called="the sign"),
    arccos("an epsilon of 1e-9 under the root"),
    arccos("sign", called="the sign"),
    sinc("slope of 1 at 0"),
    sinc("second term forgotten", called="a lost term"),
    kepler("derivative of the equation forgotten"),
    kepler("cosine for sine"),
    kepler("a millionth too large", called="a factor"),
    fixed_point("Jacobian not transposed"),
    fixed_point("through the last iteration alone"),
    fixed_point("through the last three iterations"),
    fixed_point("through the last five iterations"),
    sinkhorn("marginals taken as free", called="a lost term"),
    sinkhorn("columns' marginals taken as free", called="a lost term"),
    sinkhorn("multipliers a ten-thousandth too large"),
    cg("dmatrix not made symmetric"),
    cg("sign of dmatrix", called="the sign"),
    cg("db a hundred-thousandth too large", called="a factor"),
    power_iteration("off-diagonal doubled"),
    power_iteration("diagonal alone", called="the diagonal alone"),
    bisection("linear term forgotten", called="a lost term"),
    bisection("a twentieth too large", called="a factor"),
    newton_root("3 taken for 2", called="a factor"),
]
