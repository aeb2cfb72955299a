"""The verb `doctor`: whether these nodes could train, asked before they hang an hour in."""
