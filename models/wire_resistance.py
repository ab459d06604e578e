"""Wires of an array that resist: the effective conductances of a resistive crossbar, exactly.

A row's wire starts at its source and passes the cells of columns 0, 1, ...; the wires of a column's bitlines pass rows
0, 1, ... and end at a virtual ground behind the last row. Between neighbours, between source and first cell, and from
last cell to ground each wire has the resistance of one segment. Kirchhoff's current law at every crossing:

    row wire     g_r (p_ij - p_i,j-1) + g_r (p_ij - p_i,j+1) + sum_b G_bij (p_ij - q_bij) = 0,      p_i,-1 = V_i
    bitline b    g_c (q_bij - q_b,i-1,j) + g_c (q_bij - q_b,i+1,j) - G_bij (p_ij - q_bij) = 0,      q_b,rows,j = 0

with g_r, g_c = 1 / resistance; terms beyond a wire's open end are absent. The circuit is linear, so that the currents
into the grounds are I_b = V G'_b: G' is the array that its user sees, computed once by a sparse factorisation, one
right-hand side for every row (or every bitline, where these are fewer: the circuit is reciprocal). A weight's
polarities have a bitline each, and share the row's wire.

Not modelled: resistance of the select transistors (in series with a device: put it into G), sources and grounds that
are not ideal, capacitance, that the positive and the negative wordline are two wires (alike, one of them idle).

Checked against badcrossbar 1.1 (Joksas and Mehonic 2020, SoftwareX 12:100617), which has this circuit for one bitline
a column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from ovonic.models.errors import ConfigError

__all__ = ["effective_conductances", "effective_polarities"]

CHUNK = 64
"""Right-hand sides that are solved at a time, to bound memory."""


def effective_conductances(g_us: Tensor, row_ohm: float, column_ohm: float | None = None) -> Tensor:
    """Conductances from every source to every ground, in place of those of the devices between them.

    Args:
        g_us: conductances of one array, [bitlines, rows, columns] or [rows, columns], uS; 0 is open.
        row_ohm, column_ohm: resistance of a segment of a row's, of a bitline's wire, ohm; the latter by default as the
            former. 0: that wire is ideal.
    Returns: as ``g_us``, its shape and dtype; solved in float64, without gradient.
    Raises: ConfigError: a negative resistance, a number that is not finite, another shape.
    """
    column_ohm = row_ohm if column_ohm is None else column_ohm
    for name, value in (("row_ohm", row_ohm), ("column_ohm", column_ohm)):
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{name} {value}: must be finite and not negative")
    if g_us.ndim not in (2, 3) or not g_us.numel():
        raise ConfigError(f"conductances of shape {list(g_us.shape)}: expected [bitlines, rows, columns] of one array")
    g = g_us.detach().cpu().to(torch.float64).numpy().reshape(-1, *g_us.shape[-2:]) * 1e-6
    if not np.isfinite(g).all():
        raise ConfigError("conductances: one is not finite")
    if row_ohm == 0 and column_ohm == 0:
        return g_us.detach().clone()
    effective = _solved(g, row_ohm, column_ohm) * 1e6
    return torch.from_numpy(effective).reshape(g_us.shape).to(g_us)


def effective_polarities(g_us: Tensor, wire_ohm: float) -> tuple[Tensor, Tensor]:
    """Conductance of the positive and of the negative bitline, [..., rows, columns] each, uS, behind resistive wires.

    Args: g_us: devices, [..., 4, rows, columns], uS; wire_ohm: resistance of a segment of any wire, ohm.
    """
    pairs = torch.stack([g_us[..., 0, :, :] + g_us[..., 2, :, :], g_us[..., 1, :, :] + g_us[..., 3, :, :]], dim=-3)
    if wire_ohm:
        flat = pairs.reshape(-1, *pairs.shape[-3:])
        pairs = torch.stack([effective_conductances(pair, wire_ohm) for pair in flat]).reshape(pairs.shape)
    return pairs[..., 0, :, :], pairs[..., 1, :, :]


def _solved(g: Any, row_ohm: float, column_ohm: float) -> Any:
    """Effective conductances, [bitlines, rows, columns], S."""
    bitlines, rows, columns = g.shape
    # An ideal wire is one node for all its crossings: the row's is its source, the bitline's the ground.
    row_nodes = np.arange(rows * columns).reshape(rows, columns) if row_ohm else np.full((rows, columns), -1)
    first = rows * columns if row_ohm else 0
    bit_nodes = np.full((bitlines, rows, columns), -1)
    if column_ohm:
        bit_nodes = first + np.arange(bitlines * rows * columns).reshape(bitlines, rows, columns)
    size = first + (bitlines * rows * columns if column_ohm else 0)

    # Edges between nodes, then what ties a node to a source or to ground
    tied = np.zeros(size)
    edges: list[tuple[Any, Any, Any]] = []
    if row_ohm:
        edges.append((row_nodes[:, :-1], row_nodes[:, 1:], np.full((rows, columns - 1), 1 / row_ohm)))
        tied[row_nodes[:, 0]] += 1 / row_ohm
    if column_ohm:
        edges.append((bit_nodes[:, :-1], bit_nodes[:, 1:], np.full((bitlines, rows - 1, columns), 1 / column_ohm)))
        tied[bit_nodes[:, -1]] += 1 / column_ohm
    if row_ohm and column_ohm:
        edges.append((np.broadcast_to(row_nodes, g.shape), bit_nodes, g))
    elif row_ohm:
        tied[row_nodes] += g.sum(0)
    else:
        tied[bit_nodes] += g
    i, j, value = (np.concatenate([np.ravel(edge[k]) for edge in edges]) for k in range(3))
    laplacian = sparse.coo_matrix(
        (
            np.concatenate([value, value, -value, -value, tied]),
            (np.concatenate([i, j, i, j, np.arange(size)]), np.concatenate([i, j, j, i, np.arange(size)])),
        ),
        shape=(size, size),
    ).tocsc()
    solver = splu(laplacian, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}, diag_pivot_thresh=0.0)

    sources = _sources(g, row_nodes, bit_nodes, row_ohm, size)
    grounds = _grounds(g, row_nodes, bit_nodes, column_ohm, size)
    few, others = (sources, grounds) if rows <= bitlines * columns else (grounds, sources)
    found = np.empty((few.shape[1], others.shape[1]))
    for begin in range(0, few.shape[1], CHUNK):
        potentials = solver.solve(few[:, begin : begin + CHUNK].toarray())
        found[begin : begin + CHUNK] = (others.T @ potentials).T
    by_row = found if few is sources else found.T
    return by_row.reshape(rows, bitlines, columns).transpose(1, 0, 2)


def _sources(g: Any, row_nodes: Any, bit_nodes: Any, row_ohm: float, size: int) -> Any:
    """Currents that 1 V at each row's source drives into the grounded nodes, [nodes, rows]."""
    rows = g.shape[1]
    if row_ohm:
        return sparse.coo_matrix(
            (np.full(rows, 1 / row_ohm), (row_nodes[:, 0], np.arange(rows))), shape=(size, rows)
        ).tocsc()
    of_row = np.broadcast_to(np.arange(rows)[None, :, None], g.shape)
    return sparse.coo_matrix((np.ravel(g), (np.ravel(bit_nodes), np.ravel(of_row))), shape=(size, rows)).tocsc()


def _grounds(g: Any, row_nodes: Any, bit_nodes: Any, column_ohm: float, size: int) -> Any:
    """Current into each bitline's ground for 1 V at each node, [nodes, bitlines * columns]."""
    bitlines, _, columns = g.shape
    ends = bitlines * columns
    if column_ohm:
        last = bit_nodes[:, -1].ravel()
        return sparse.coo_matrix((np.full(ends, 1 / column_ohm), (last, np.arange(ends))), shape=(size, ends)).tocsc()
    end = np.broadcast_to(np.arange(ends).reshape(bitlines, 1, columns), g.shape)
    node = np.broadcast_to(row_nodes, g.shape)
    return sparse.coo_matrix((np.ravel(g), (np.ravel(node), np.ravel(end))), shape=(size, ends)).tocsc()
