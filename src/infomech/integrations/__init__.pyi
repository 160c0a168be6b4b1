from .lightly import TwoViewInfoNCE as TwoViewInfoNCE
from .metric_learning import LabelledInfoNCE as LabelledInfoNCE
from .open_clip import OpenClipLoss as OpenClipLoss
from .open_clip import OpenClipSigmoidLoss as OpenClipSigmoidLoss
from .sentence_transformers import SentenceSymmetricInfoNCE as SentenceSymmetricInfoNCE
from .trainer import TrainerLoss as TrainerLoss
