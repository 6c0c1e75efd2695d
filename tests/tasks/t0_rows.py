"""Rows with the columns that T0's data sets have on the hub, made up."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]

_TEXTS = {"text": ["a jar", "a lid"], "label": ["A", "B"]}
_ANSWERS = {"text": ["the red door"], "answer_start": [4]}
_NLI = {"premise": "Two men carry a boat.", "hypothesis": "The men are strong.", "label": 1}
_SENTENCES = {"sentence1": "He left early.", "sentence2": "He was soon gone.", "label": 1, "idx": 0}
_BIO = {"column_header": ["name", "born"], "row_number": [1, 1], "content": ["ann", "1901"]}
_SQUAD = {"title": "Doors", "context": "Use the red door.", "question": "Which?"}
_FILM = {"plot": "A man waits.", "title": "Wait", "question": "Who?", "answers": ["a man", "he"]}

ROWS: dict[str, dict[str, Any]] = {
    "cos_e": {"question": "Where is jam?", "choices": ["jar", "sea"], "answer": "jar"},
    "dream": {
        "dialogue": ["M: Hi.", "W: Hello."],
        "question": "Who speaks first?",
        "choice": ["A man.", "A dog."],
        "answer": "A man.",
    },
    "quail": {
        "context": "It rained.",
        "question": "What fell?",
        "answers": ["rain", "snow", "nothing", "not enough information"],
        "correct_answer_id": 0,
    },
    "quartz": {
        "para": "Heat melts ice.",
        "question": "Near a fire there is less",
        "choices": _TEXTS,
        "answerKey": "B",
    },
    "social_i_qa": {
        "context": "Kai fell.",
        "question": "How does Kai feel?",
        "answerA": "sore",
        "answerB": "proud",
        "answerC": "rich",
        "label": "1",
    },
    "wiqa": {
        "question_stem": "suppose less rain falls, how will it affect more plants.",
        "question_para_step": ["Rain falls.", "Plants grow."],
        "answer_label": "no_effect",
        "answer_label_as_choice": "C",
    },
    "cosmos_qa": {
        "context": "I missed the bus.",
        "question": "What then?",
        "answer0": "I walked.",
        "answer1": "I flew.",
        "answer2": "I swam.",
        "answer3": "None of the above choices .",
        "label": 0,
    },
    "qasc": {
        "question": "What closes a jar?",
        "choices": _TEXTS,
        "answerKey": "B",
        "fact1": "Lids close things.",
        "fact2": "A jar is a thing.",
    },
    "quarel": {
        "question": "Ice slides better on (A) glass (B) sand",
        "answer_index": 0,
        "world_literals": {"world1": ["glass"], "world2": ["sand"]},
    },
    "sciq": {
        "question": "What do plants need?",
        "support": "Plants need light.",
        "correct_answer": "light",
        "distractor1": "salt",
        "distractor2": "noise",
        "distractor3": "glue",
    },
    "wiki_hop": {
        "query": "country_of_citizenship ann lee",
        "supports": ["Ann lived in Rome.", "Rome is in Italy."],
        "candidates": ["italy", "spain"],
        "answer": "italy",
    },
    "adversarial_qa_dbidaf": {**_SQUAD, "answers": _ANSWERS},
    "adversarial_qa_dbert": {**_SQUAD, "answers": _ANSWERS},
    "adversarial_qa_droberta": {**_SQUAD, "answers": _ANSWERS},
    "quoref": {**_SQUAD, "answers": {"text": ["Ann", "Lee"], "answer_start": [0, 9]}},
    "ropes": {
        "background": "Heat melts ice.",
        "situation": "Pot A is hot.",
        "question": "In which pot is water?",
        "answers": {"text": ["Pot A"]},
    },
    "duorc_selfrc": {**_FILM, "no_answer": False},
    "duorc_paraphraserc": {**_FILM, "answers": [], "no_answer": True},
    "hotpot_qa": {
        "input": "Who wrote it?",
        "output": [{"answer": "Ann"}, {"answer": "Ann"}, {"answer": None}, {"answer": "A. Lee"}],
    },
    "wiki_qa": {"question": "Who?", "document_title": "Ann", "answer": "Ann did.", "label": 1},
    "common_gen": {"concepts": ["dog", "run"], "target": "The dog runs."},
    "wiki_bio": {
        "input_text": {"context": "ann", "table": _BIO},
        "target_text": "ann ( 1901 ) was a poet .",
    },
    "amazon_polarity": {"title": "Well", "content": "It broke.", "label": 0},
    "app_reviews": {"package_name": "org.app", "review": "Fine.", "star": 4},
    "imdb": {"text": "A bore.", "label": 0},
    "rotten_tomatoes": {"text": "a joy", "label": 1},
    "yelp_review_full": {"text": "Slow.", "label": 1},
    "cnn_dailymail": {"article": "A bus fell over.", "highlights": "Bus falls.", "id": "1"},
    "gigaword": {"document": "a bus fell over on monday .", "summary": "bus falls"},
    "multi_news": {"document": "One. ||||| Two.", "summary": "One and two."},
    "samsum": {"dialogue": "A: Hi\r\nB: Bye", "summary": "A and B talk.", "id": "1"},
    "xsum": {"document": "A bus fell over.", "summary": "A bus fell.", "id": "1"},
    "ag_news": {"text": "Shares fell.", "label": 2},
    "dbpedia_14": {"title": "Oak", "content": "A tree.", "label": 10},
    "trec": {"text": "Who is he ?", "coarse_label": 3, "fine_label": 20},
    "mrpc": _SENTENCES,
    "paws": _SENTENCES,
    "qqp": {"question1": "How?", "question2": "In what way?", "label": 1},
    "anli_r1": _NLI,
    "anli_r2": _NLI,
    "anli_r3": _NLI,
    "cb": _NLI,
    "rte": _NLI,
    "copa": {
        "premise": "The cup broke.",
        "choice1": "It fell.",
        "choice2": "It was full.",
        "question": "cause",
        "label": 0,
    },
    "hellaswag": {
        "activity_label": "Cooking",
        "ctx": "A man cuts bread. He",
        "endings": ["eats it.", "flies.", "sings to it.", "reads it."],
        "label": "0",
    },
    "story_cloze": {
        **{f"input_sentence_{number}": f"Then {number}." for number in range(1, 5)},
        "sentence_quiz1": "It ended.",
        "sentence_quiz2": "It rained up.",
        "answer_right_ending": 1,
    },
    "wic": {"word": "bank", "sentence1": "A river bank.", "sentence2": "A rich bank.", "label": 0},
    "winogrande": {
        "sentence": "The cup does not fit the box because _ is too big.",
        "option1": "cup",
        "option2": "box",
        "answer": "1",
    },
    "wsc": {
        "text": "Ann saw Eve when she came.",
        "span1_text": "Ann",
        "span2_text": "she",
        "span1_index": 0,
        "span2_index": 4,
        "label": 1,
    },
}
# What the row's answer is in words that every wording shares: expected outputs per wording.
OUTPUTS: dict[str, list[tuple[str, ...]]] = {
    "quartz": [("a lid",)] * 2,
    "social_i_qa": [("sore",)] * 2,
    "wiqa": [("no effect",)] * 2,
    "quarel": [("glass",)] * 2,
    "quoref": [("Ann", "Lee")] * 3,
    "duorc_selfrc": [("a man", "he")] * 2,
    "duorc_paraphraserc": [("not answerable",)] * 2,
    "hotpot_qa": [("Ann", "A. Lee")] * 2,
    "app_reviews": [("4",)] * 2,
    "yelp_review_full": [("2",), ("poor",)],
    "dbpedia_14": [("plant",)] * 2,
    "trec": [("person",)] * 2,
    "anli_r1": [("maybe",), ("maybe",), ("open",), ("possible",)],
    "cb": [("no",), ("no",), ("false",), ("impossible",)],
    "rte": [("no",), ("no",), ("false",)],
    "copa": [("It fell.",)] * 3,
    "hellaswag": [("eats it.",)] * 3,
    "story_cloze": [("It ended.",)] * 3,
    "wic": [("no",), ("different",), ("no",)],
    "winogrande": [("cup",)] * 3,
    "wsc": [("yes",), ("yes",), ("the same",)],
}
