"""The style sheet of the HTML report: light and dark, narrow screens, print."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--paper:#fff;--line:#d5dae0;--tint:#f5f7f9;--link:#0a5cad;
--good:#0a6b4b;--bad:#b03a00}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a6adb5;--paper:#15181c;--line:#3a4149;--tint:#1e2329;
--link:#7cb7f5;--good:#5fd3a5;--bad:#ff9c66}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:54rem;padding:1.5rem 1rem 3rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .6rem}
h2{font-size:1.25rem;margin:2.2rem 0 .5rem;border-top:1px solid var(--line);padding-top:1.2rem}
p{margin:.5rem 0;max-width:44rem}
a{color:var(--link)}
code,pre{font-family:ui-monospace,monospace;font-size:.86em}
pre{background:var(--tint);border:1px solid var(--line);border-radius:.3rem;padding:.6rem .8rem;white-space:pre-wrap;
overflow-wrap:anywhere}
small{font-size:.82em;color:var(--soft)}
.summary{border-left:.3rem solid var(--good);background:var(--tint);padding:.6rem .9rem;margin:1rem 0}
.summary.missed{border-color:var(--bad)}
.wide{overflow-x:auto}
.wide:focus-visible{outline:2px solid var(--link)}
table{border-collapse:collapse;width:100%;margin:.4rem 0 1.2rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{text-align:left;vertical-align:top;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--line)}
thead th{font-size:.85rem;color:var(--soft);border-bottom:2px solid var(--line)}
tbody th{font-weight:400}
.settings{font-size:.88rem;table-layout:fixed}
summary{cursor:pointer;font-weight:600;padding:.3rem 0}
details caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.settings th,.settings td{padding-top:.15rem;padding-bottom:.15rem;overflow-wrap:anywhere}
.verdict{font-weight:600}
.verdict,.whole{white-space:nowrap}
.held{color:var(--good)}
.not-held{color:var(--bad)}
figure{margin:1.4rem 0 2rem}
figure .wide{background:#fff;border:1px solid var(--line);border-radius:.4rem;padding:.5rem}
img{display:block;width:100%;height:auto;min-width:34rem}
figcaption{font-size:.88rem;color:var(--soft);margin-top:.5rem;max-width:46rem}
.alone{display:block;margin-top:.3rem;font-size:.88rem;color:var(--soft)}
.alone code{overflow-wrap:anywhere;color:var(--ink)}
.alone ul{margin:.2rem 0 1rem;padding-left:1.2rem}
.alone li{margin:.25rem 0}
.wide+.alone{margin:-.8rem 0 1.2rem}
tbody th{min-width:9rem}
nav{font-size:.92rem;margin:.5rem 0}
footer{border-top:1px solid var(--line);margin-top:2rem;font-size:.88rem;color:var(--soft)}
@media screen and (max-width:40rem){table,caption,tbody,tr,tbody th,td{display:block}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tr{padding:.5rem 0;border-bottom:1px solid var(--line)}th,td{border:0;padding:.1rem 0}tbody th{font-weight:600}
td{display:flex;gap:.8rem}td::before{content:attr(data-label);flex:0 0 8rem;color:var(--soft);font-size:.88rem}
td>span{min-width:0;overflow-wrap:anywhere}.settings td::before{content:none}
.claims tr{display:flex;flex-wrap:wrap;gap:.1rem 1rem}.claims tbody th{flex:0 0 100%}.claims td::before{content:none}
tbody th{min-width:0}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--paper:#fff;--line:#bbb;--tint:#fff;--good:#0a6b4b;
--bad:#b03a00}body{max-width:none;padding:0;font-size:10pt}figure{margin:1rem 0}h2,caption{break-after:avoid}
figure,table,tr,pre,.summary{break-inside:avoid}.wide{overflow:visible}figure .wide{border:0;padding:0}
img{min-width:0;max-height:8.5cm;width:auto;max-width:100%}}
"""
