"""Responsible use: the one text that the report, the card, the page and the documents show."""

from __future__ import annotations

__all__ = ["RESPONSIBLE_USE"]

RESPONSIBLE_USE: tuple[str, ...] = (
    "The network names the expression that most people would see on the face in a picture. It "
    "does not know what the person feels: people show the same feeling in different ways, and the "
    "same expression for different reasons (Barrett et al. 2019, Psychological Science in the "
    "Public Interest 20(1)). It gives an answer for every face, and many answers are wrong. How "
    "often it is wrong for people of another age, skin colour or culture is not measured.",
    "In the European Union it is prohibited to use AI systems to infer the emotions of people at "
    "work and in education, except for medical or safety reasons: AI Act, Regulation (EU) "
    "2024/1689, Article 5(1)(f). Do not use this network for that, and not for decisions about "
    "people, such as hiring, grading, policing, insurance or health. For other uses the AI Act has "
    "duties too, for example to tell people that the system looks at them (Article 50(3)). This "
    "text is not legal advice.",
    "fer-edge works on this machine: it sends no picture and no answer to anybody, and it stores "
    "only what a command is asked to write.",
)
"""Paragraphs of plain text, without markup."""
